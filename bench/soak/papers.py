"""What the people of the soak do besides conversations: documents, and their own account."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any, Final

from bench.soak.people import Person

DOCUMENTS_KEPT: Final = 4
DOCUMENT: Final = "/api/documents/{document}"
SUGGESTIONS: Final = "/api/documents/{document}/suggestions"


async def some_document(person: Person) -> str:
    """A new document of his own; the oldest goes when there are many."""
    if len(person.documents) >= DOCUMENTS_KEPT:
        await person.ask("DELETE", DOCUMENT, document=person.documents.pop(0), expect={204})
    document = person.id()
    body = {"id": document, "title": person.words(2), "content": "Alpha stays.\nBeta goes.\nGamma comes.\n"}
    await person.ask("POST", "/api/documents", body=body, expect={201})
    await person.ask("POST", "/api/documents", body=body, expect={200})
    person.documents.append(document)
    return document


async def writes(person: Person) -> None:
    """Saves with and without the newest tag, compares, goes back, and throws away what came after."""
    document = await some_document(person)
    read = await person.client.ask(person.token, "GET", DOCUMENT, document=document)
    tag = {"if-match": read.headers["etag"]}
    body = {"content": f"Alpha stays.\n{person.words()}\n"}
    await person.ask("PUT", DOCUMENT, document=document, body=body, headers=tag)
    await person.ask("PUT", DOCUMENT, document=document, body=body, headers=tag, expect={412})
    await person.ask("PUT", DOCUMENT, document=document, body={"content": person.words()})
    await person.ask("GET", f"{DOCUMENT}/diff", document=document, params={"from": 1, "to": 3})
    await person.ask("POST", f"{DOCUMENT}/revert", document=document, body={"version": 1})
    page = await person.ask("GET", f"{DOCUMENT}/versions", document=document)
    if [item["version"] for item in page["items"]] != [4, 3, 2, 1]:
        person.client.record.complain("versions have a gap", str(page)[:600])
    await person.ask("GET", f"{DOCUMENT}/versions/{{version}}", document=document, version="2")
    await person.ask("GET", f"{DOCUMENT}/export", document=document)
    if person.chance.random() < 0.5:
        await person.ask("DELETE", f"{DOCUMENT}/versions", document=document, params={"after": 2}, expect={204})
        await person.ask("PUT", DOCUMENT, document=document, body={"content": person.words()})


async def suggests(person: Person) -> None:
    document = await some_document(person)
    made = [
        await person.ask(
            "POST", SUGGESTIONS, document=document, body={"originalText": old, "suggestedText": new}, expect={201}
        )
        for old, new in (("Alpha stays.", "Alpha is gone."), ("Beta goes.", "Beta stays."), ("Gamma", "Delta"))
    ]
    route = f"{SUGGESTIONS}/{{suggestion}}"
    await person.ask("POST", f"{route}/accept", document=document, suggestion=made[0]["id"])
    await person.ask("POST", f"{route}/reject", document=document, suggestion=made[1]["id"])
    await person.ask("POST", f"{route}/accept", document=document, suggestion=made[1]["id"], expect={409})
    done = await person.ask("POST", f"{SUGGESTIONS}/accept", document=document)
    page = await person.ask("GET", SUGGESTIONS, document=document, params={"state": "open"})
    if done["document"]["content"] != "Alpha is gone.\nBeta goes.\nDelta comes.\n" or page["items"]:
        person.client.record.complain("suggestions were not accepted", str(done)[:600])


async def looks_at_documents(person: Person) -> None:
    page = await person.ask("GET", "/api/documents", params={"limit": 2})
    if page["nextCursor"]:
        await person.ask("GET", "/api/documents", params={"limit": 2, "cursor": page["nextCursor"]})
    for item in page["items"]:
        await person.ask("GET", DOCUMENT, document=item["id"])


async def looks_at_the_account(person: Person) -> None:
    for route in ("/api/me", "/api/usage", "/api/limits", "/api/models", "/api/repositories"):
        await person.ask("GET", route)
    body = {"fullName": person.words(2), "preferences": {"theme": person.words(1)}}
    await person.ask("PATCH", "/api/me", body=body)
    repository = {"owner": "octocat", "name": person.words(1)}
    added = await person.ask("POST", "/api/repositories", body=repository, expect={200, 201})
    await person.ask("DELETE", "/api/repositories/{repository}", repository=added["id"], expect={204})


async def takes_everything_along(person: Person) -> None:
    response = await person.client.ask(person.token, "GET", "/api/me/export")
    if response.status_code == 200 and zipfile.ZipFile(io.BytesIO(response.content)).testzip() is not None:
        person.client.record.complain("an export is broken")


OTHER_DEEDS: Final[dict[Callable[[Person], Any], int]] = {
    writes: 5,
    suggests: 4,
    looks_at_documents: 3,
    looks_at_the_account: 5,
    takes_everything_along: 2,
}
