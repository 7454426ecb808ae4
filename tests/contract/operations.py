"""The operations of the application as its own contract describes them, so that a new route is tried by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
from fastapi import FastAPI

from tests.chat_server import ChatServer
from threadkeep.errors import SENTENCES, status_of
from threadkeep.web.contract import document

# What would tell of our inside: a stack trace, a driver, a query.
INSIDE: Final = ("traceback", "psycopg", 'file "/', "select ", "insert into", "sqlstate", "site-packages", "relation ")


@dataclass(frozen=True)
class Operation:
    """A method of a path, with what it takes and what it may be refused with."""

    method: str
    path: str
    name: str
    path_parameters: tuple[str, ...]
    query: dict[str, dict[str, Any]]
    body: Any
    is_closed: bool
    is_secured: bool
    codes: frozenset[str]
    example_path: dict[str, str] = field(hash=False, compare=False, default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_for_administrators(self) -> bool:
        return self.path.startswith("/api/admin/")

    def url(self, **parameters: str) -> str:
        """The path with these parameters, and the contract's examples for the others."""
        url = self.path
        for name in self.path_parameters:
            url = url.replace(f"{{{name}}}", quote(parameters.get(name, self.example_path[name]), safe=""))
        return url

    def texts(self) -> list[str]:
        """The query's parameters that take a text."""
        return [name for name, schema in self.query.items() if "string" in str(schema)]


def operations(app: FastAPI) -> list[Operation]:
    """Every operation of the application."""
    contract = document(app)
    return [
        _operation(contract, method, path, described)
        for path, methods in contract["paths"].items()
        for method, described in methods.items()
    ]


def problem(answer: httpx.Response, operation: Operation | None = None) -> str:
    """The code of a clear refusal: a 4xx with a problem document that tells nothing of our inside."""
    found: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert 400 <= answer.status_code < 500, answer.text
    assert found["code"] in SENTENCES
    assert found["status"] == answer.status_code == status_of(found["code"])
    assert found["correlationId"] == answer.headers["x-correlation-id"]
    assert ("errors" in found) == (found["code"] == "invalid:api")
    assert not [word for word in INSIDE if word in answer.text.lower()], answer.text
    if operation is not None and found["code"] not in {"not_found:api", "method_not_allowed:api"}:
        assert found["code"] in operation.codes, f"{operation} does not say {found['code']}"
    return str(found["code"])


def with_texts(body: Any, text: str) -> Any:
    """The body with this in the place of every text in it."""
    changed = copy.deepcopy(body)
    for _, put in positions(changed):
        put(text)
    return changed


def positions(body: Any) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Every text of a body, with a function that puts something else into its place."""
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in list(items):
        if isinstance(value, str):
            yield str(key), lambda new, key=key: body.__setitem__(key, new)  # type: ignore[misc]
        else:
            yield from positions(value)


async def everything(server: ChatServer) -> dict[str, list[str]]:
    """Every row of every table as text, without the record of errors, to which refusals may come."""
    tables = await server.rows(
        """
        select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and not c.relispartition and n.nspname in ('public', 'private', 'auth')
            and c.relname <> 'error_logs'
        order by 1
        """
    )
    union = " union all ".join(f"select '{row['name']}', t::text from {row['name']} t" for row in tables)
    rows = await server.rows(f"select * from ({union}) as all_rows (name, row) order by name, row")
    found: dict[str, list[str]] = {row["name"]: [] for row in tables}
    for row in rows:
        found[row["name"]].append(row["row"])
    return found


def _operation(contract: dict[str, Any], method: str, path: str, described: dict[str, Any]) -> Operation:
    parameters = described.get("parameters", [])
    [body] = described.get("requestBody", {"content": {"": {}}})["content"].values()
    schema = contract["components"]["schemas"].get(body.get("schema", {}).get("$ref", "").rpartition("/")[2], {})
    in_path = {one["name"]: one for one in parameters if one["in"] == "path"}
    return Operation(
        method=method.upper(),
        path=path,
        name=described["operationId"],
        path_parameters=tuple(in_path),
        query={one["name"]: one["schema"] for one in parameters if one["in"] == "query"},
        body=body.get("example"),
        is_closed=schema.get("additionalProperties") is False,
        is_secured="bearer" in str(described.get("security")),
        codes=frozenset(_codes(contract, described)),
        example_path={name: str(one["example"]) for name, one in in_path.items()},
    )


def _codes(contract: dict[str, Any], described: dict[str, Any]) -> Iterator[str]:
    for response in described["responses"].values():
        name = response.get("$ref", "").rpartition("/")[2]
        if name:
            [content] = contract["components"]["responses"][name]["content"].values()
            yield from content["schema"]["properties"]["code"]["enum"]
