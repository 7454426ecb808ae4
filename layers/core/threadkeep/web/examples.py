"""Examples for the contract: those that a schema brings itself, and made out of the schema where it brings none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FORMATS: Final = {
    "uuid": "0b8e2f0a-5c1d-4b7e-9a43-6d2f1e8c7a90",
    "date-time": "2026-03-01T09:30:00Z",
    "date": "2026-03-01",
    "uri": "https://example.com/",
    "binary": "",
}
# What a member of that name looks like.
NAMES: Final[Mapping[str, Any]] = {
    "email": "ada@example.com",
    "fullName": "Ada Lovelace",
    "title": "A trip to Lisbon",
    "content": "# Lisbon\n\nThree days by tram.",
    "model": "gpt-6.1-terra",
    "modelId": "gpt-6.1-terra",
    "etag": '"0b8e2f0a-5c1d-4b7e-9a43-6d2f1e8c7a90"',
    "parts": [{"type": "text", "text": "Hello"}],
    "key": "chat_model_agent_google",
    "nextCursor": None,
}
SHORT_TEXT: Final = "text"


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str = "") -> Any:
    """A value that the schema takes; `schemas` are what `#/components/schemas/` refers to."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas, name)
    if "example" in schema:
        return schema["example"]
    for given in ("examples", "enum"):
        if schema.get(given):
            return schema[given][0]
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return example_of(schema[choice][0], schemas, name)
    return _of_type(schema, schemas, name)


def _of_type(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str) -> Any:
    match schema.get("type"):
        case "object":
            members = schema.get("properties", {})
            return {member: example_of(members[member], schemas, member) for member in members}
        case "array":
            if name in NAMES:
                return NAMES[name]
            return [example_of(schema["items"], schemas, name)] if schema.get("items") else []
        case "string":
            text = FORMATS.get(schema.get("format", ""), NAMES.get(name) or SHORT_TEXT)
            return text[: schema.get("maxLength", len(text))]
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return True
        case "null":
            return None
    return NAMES.get(name, {})
