from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import TypeAdapter, ValidationError

from threadkeep.errors import ThreadkeepError
from threadkeep.ids import ClientId, document_id, message_id, session_id

SESSION = UUID("0b9e7f4c-6a1d-4f7e-9d0c-1f2a3b4c5d6e")
OTHER_SESSION = UUID("77777777-6a1d-4f7e-9d0c-1f2a3b4c5d6e")
NO_IDS = [
    "",
    "x" * 65,
    "a b",
    "a/b",
    "a\n",
    "a\x00",
    "ä",
    "\ud800",
    "١٢٣",
    "{0b9e7f4c-6a1d-4f7e-9d0c-1f2a3b4c5d6e}",
    "urn:uuid:0b9e7f4c-6a1d-4f7e-9d0c-1f2a3b4c5d6e",
    "0b9e7f4c-6a1d-4f7e-9d0c-1f2a3b4c5d6e\n",
]


def test_a_uuid_is_taken_as_it_is_in_any_case() -> None:
    for text in (str(SESSION), str(SESSION).upper()):
        assert session_id(text) == SESSION
        assert document_id(text) == SESSION
        assert message_id(OTHER_SESSION, text) == SESSION


def test_a_clients_id_becomes_the_same_uuid_for_ever() -> None:
    assert session_id("nB3xJ1pQ7wK2mZ9a") == UUID("693f3e99-24b3-593c-b43c-853e0e21400b")
    assert document_id("nB3xJ1pQ7wK2mZ9a") == UUID("3e51ced2-93c4-5810-8127-9654173aebda")
    assert message_id(SESSION, "nB3xJ1pQ7wK2mZ9a") == UUID("5460ab0c-4f58-5e06-806b-d9fce7b12be4")


def test_the_same_text_names_different_things_in_different_places() -> None:
    assert len({session_id("a"), document_id("a"), message_id(SESSION, "a"), message_id(OTHER_SESSION, "a")}) == 4


def test_texts_that_differ_in_case_are_different_ids() -> None:
    assert session_id("abc") != session_id("ABC")


def test_a_uuid_without_hyphens_is_a_clients_id_like_any_other() -> None:
    assert session_id(SESSION.hex) != SESSION


@pytest.mark.parametrize("text", ["a", "x" * 64, "_-", "0"])
def test_the_whole_range_of_ids_is_taken(text: str) -> None:
    assert session_id(text).version == 5
    assert TypeAdapter[Any](ClientId).validate_python(text) == text


@pytest.mark.parametrize("text", NO_IDS)
def test_anything_else_is_refused_and_the_field_is_named(text: str) -> None:
    with pytest.raises(ThreadkeepError) as caught:
        message_id(SESSION, text, "message.id")
    assert caught.value.code == "invalid:api"
    assert [error.field for error in caught.value.fields] == ["message.id"]


@pytest.mark.parametrize("text", NO_IDS)
def test_a_body_field_refuses_what_the_functions_refuse(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter[Any](ClientId).validate_python(text)
