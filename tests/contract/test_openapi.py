"""The committed contract is the one that the functions keep, and says all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from local.openapi import OPENAPI, contract_text
from threadkeep.errors import SENTENCES, status_of
from threadkeep.web import raises

CONTRACT: dict[str, Any] = json.loads(OPENAPI.read_text())
DESCRIBED: list[dict[str, Any]] = [one for methods in CONTRACT["paths"].values() for one in methods.values()]
OPERATIONS = [
    pytest.param(operation, id=f"{method} {path}")
    for path, methods in CONTRACT["paths"].items()
    for method, operation in methods.items()
]
# What a body may hold without a bound of its own: the body has one. The data of a configuration has its own schema.
BOUNDED_BY_THE_BODY = {"ChatBody.messages", "receiveWebhook.type"}


def test_the_committed_contract_is_current() -> None:
    assert OPENAPI.read_text() == contract_text(), "run `make openapi`"


def test_an_operation_is_called_by_one_name() -> None:
    names = [operation["operationId"] for operation in DESCRIBED]

    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name)] == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_says_what_it_does_and_who_may_call_it(operation: dict[str, Any]) -> None:
    [tag] = operation["tags"]

    assert operation["summary"]
    assert tag in {known["name"] for known in CONTRACT["tags"]}
    if operation["operationId"] not in {"health", "makeGuest"}:
        assert operation["security"]
        schemes = {scheme for choice in operation["security"] for scheme in choice}
        assert schemes <= CONTRACT["components"]["securitySchemes"].keys()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_says_how_it_is_refused(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        if int(status) < 400:
            assert "X-Correlation-Id" in response["headers"]
            continue
        shared = CONTRACT["components"]["responses"][response["$ref"].rpartition("/")[2]]
        [(media_type, content)] = shared["content"].items()
        codes = content["schema"]["properties"]["code"]["enum"]
        assert media_type == "application/problem+json"
        assert {status_of(code) for code in codes} == {int(status)}
        assert {example["value"]["code"] for example in content["examples"].values()} == set(codes)
    if "requestBody" in operation:
        assert {"400", "413", "415", "422"} <= operation["responses"].keys()
    if {"guestCookie": []} in operation.get("security", []):
        assert {"401", "403", "503"} <= operation["responses"].keys()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_bounds_what_it_takes(operation: dict[str, Any]) -> None:
    found = [name for parameter in operation.get("parameters", []) for name in unbounded(parameter["schema"], "")]
    for content in operation.get("requestBody", {"content": {}})["content"].values():
        found += unbounded(content["schema"], operation["operationId"])

    assert set(found) <= BOUNDED_BY_THE_BODY


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_examples_of_an_operation_are_what_it_takes_and_gives(operation: dict[str, Any]) -> None:
    contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
    contents += [response["content"] for response in operation["responses"].values() if "content" in response]
    for media in (media for content in contents for media in content.values()):
        assert "example" in media
        if schema := media.get("schema"):
            whole = schema | {"components": CONTRACT["components"]}
            jsonschema_rs.validator_for(whole, validate_formats=True).validate(media["example"])


def test_a_code_that_nobody_knows_is_in_no_contract() -> None:
    with pytest.raises(KeyError):
        raises("not_found:unicorn")


def test_every_code_of_the_contract_has_a_sentence() -> None:
    assert set(CONTRACT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == SENTENCES.keys()


def test_the_page_about_the_api_has_every_code_with_its_sentence() -> None:
    page = (OPENAPI.parent / "docs" / "api.md").read_text()

    assert re.findall(r"^\| `(\w+:\w+)` \| (\d+) \| (.*) \|$", page, re.MULTILINE) == [
        (code, str(status_of(code)), SENTENCES[code])
        for code in sorted(SENTENCES, key=lambda code: (status_of(code), code))
    ]


def unbounded(schema: dict[str, Any], name: str) -> Iterator[str]:
    """The texts, numbers and lists of a schema that have no largest size."""
    if "$ref" in schema:
        model = schema["$ref"].rpartition("/")[2]
        yield from unbounded(CONTRACT["components"]["schemas"][model], model)
        return
    for choice in ("anyOf", "allOf", "oneOf"):
        for one in schema.get(choice, []):
            yield from unbounded(one, name)
    bounds = {
        "string": {"maxLength", "enum", "const", "format", "pattern"},
        "integer": {"maximum", "exclusiveMaximum"},
        "number": {"maximum", "exclusiveMaximum"},
        "array": {"maxItems"},
    }.get(str(schema.get("type")))
    if bounds and not schema.keys() & bounds:
        yield name
    for member, described in schema.get("properties", {}).items():
        yield from unbounded(described, f"{name}.{member}")
    if "items" in schema:
        yield from unbounded(schema["items"], f"{name}[]")
