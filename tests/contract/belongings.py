"""One of each thing that a person can have, with a word in it that only she knows."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chat_server import ChatServer
from tests.contract.operations import everything

SECRET = "xyzzy-of-ada"


@dataclass
class Belongings:
    """The ids of her things by the names that paths have for them, her rows, and how many hang on her things."""

    ids: dict[str, str]
    rows: set[str]
    hanging: dict[str, int]


async def belongings(server: ChatServer) -> Belongings:
    """What Ada makes by the API, and what only the system makes for her."""
    headers = server.headers("ada")
    http = server.http
    me = (await http.patch("/api/me", json={"fullName": SECRET}, headers=headers)).json()
    said = (await server.whole({"message": SECRET, "context": {"secret": SECRET}})).json()
    session, answer = said["sessionId"], said["message"]["id"]
    await http.put(f"/api/sessions/{session}/messages/{answer}/vote", json={"isUpvoted": True}, headers=headers)
    new = {"title": SECRET, "content": f"{SECRET} one", "sessionId": session}
    document = (await http.post("/api/documents", json=new, headers=headers)).json()["id"]
    await http.put(f"/api/documents/{document}", json={"content": f"{SECRET} two"}, headers=headers)
    suggested = await http.post(
        f"/api/documents/{document}/suggestions",
        json={"originalText": "two", "suggestedText": SECRET},
        headers=headers,
    )
    repository = (await http.post("/api/repositories", json={"owner": "ada", "name": SECRET}, headers=headers)).json()
    [file] = await server.rows(
        """
        insert into files (user_id, chat_id, storage_key, filename, kind, media_type, size_bytes, state)
        values (%(user)s, %(session)s, %(secret)s, %(secret)s, 'text', 'text/plain', 5, 'ready')
        returning id
        """,
        user=me["id"],
        session=session,
        secret=SECRET,
    )
    [error] = await server.rows(
        """
        insert into error_logs (user_id, error_type, error_category, error_message)
        values (%(user)s, 'api', 'internal:api', %(secret)s)
        returning id
        """,
        user=me["id"],
        secret=SECRET,
    )
    ids = {
        "session": session,
        "message": answer,
        "document": document,
        "suggestion": suggested.json()["id"],
        "repository": repository["id"],
        "file": str(file["id"]),
        "error": str(error["id"]),
        "user": me["id"],
    }
    rows = {row for row in await all_rows(server) if any(one in row for one in ids.values())}
    return Belongings(ids, rows, await hanging(server, ids))


async def all_rows(server: ChatServer) -> set[str]:
    return {f"{table} {row}" for table, rows in (await everything(server)).items() for row in rows}


async def hanging(server: ChatServer, ids: dict[str, str]) -> dict[str, int]:
    """How many rows of each table belong to her, or to a thing of hers."""
    columns = await server.rows(
        """
        select quote_ident(table_name) as name, string_agg(quote_ident(column_name), ', ') as owners
        from information_schema.columns
        where table_schema = 'public'
            and data_type = 'uuid'
            and column_name in ('user_id', 'chatId', 'chat_id', 'messageId', 'documentId', 'streamId')
        group by table_name
        """
    )
    counts = {}
    for column in columns:
        query = f"select count(*) as n from {column['name']} where %(ids)s::uuid[] && array[{column['owners']}]"
        [row] = await server.rows(query, ids=list(ids.values()))
        counts[column["name"]] = row["n"]
    return counts
