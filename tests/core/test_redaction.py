"""No secret reaches a log, whatever it came in (F17)."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from tests.logs import LogLines
from threadkeep.file_kinds import FileType
from threadkeep.log import logger
from threadkeep.redaction import redact, redacted
from threadkeep.storage import DiskStorage

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlLW9mLWl0"
SECRET = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
SECRETS = [
    ("Authorization: Bearer " + JWT, JWT),
    ("{'authorization': 'Bearer " + SECRET + "'}", SECRET),
    (json.dumps({"Authorization": "Basic " + SECRET}), SECRET),
    (json.dumps(json.dumps({"x-api-key": SECRET})), SECRET),
    ("cookie: threadkeep_guest=" + JWT, JWT),
    ("the token " + JWT + " has expired", JWT),
    ("Incorrect API key provided: sk-proj-" + SECRET, "sk-proj-" + SECRET),
    ("sk-ant-api03-" + SECRET, SECRET),
    ("key AIzaSy" + SECRET, SECRET),
    ("https://generativelanguage.googleapis.com/v1beta/models?key=" + SECRET + "&alt=sse", SECRET),
    ("https://s3.example.com/a?X-Amz-Signature=" + SECRET + "&X-Amz-Credential=" + SECRET, SECRET),
    ("ghp_" + SECRET, SECRET),
    ("github_pat_" + SECRET, SECRET),
    ("AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
    ("whsec_" + SECRET, SECRET),
    ("postgresql://threadkeep_api:" + SECRET + "@db.example.com:5432/app", SECRET),
    ("connection failed: postgres://u:p%40" + SECRET + "@[::1]/app?sslmode=require", SECRET),
    ("host=db user=api password=" + SECRET + " dbname=app", SECRET),
    ("PASSWORD='" + SECRET + " and more'", "and more"),
    ('{"client_secret":"' + SECRET + '"}', SECRET),
    ("{'refresh_token': '" + SECRET + "'}", SECRET),
    ("x-guest-token: " + SECRET, SECRET),
    ("AWS_SECRET_ACCESS_KEY=" + SECRET, SECRET),
    ("-----BEGIN PRIVATE KEY-----\n" + SECRET + "\n-----END PRIVATE KEY-----", SECRET),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_a_secret_is_taken_out_and_the_rest_stays(text: str, secret: str) -> None:
    assert secret not in redact(f"before {text} after")
    assert redact(f"before {text} after").startswith("before ")
    assert redact(f"before {text} after").endswith(" after")
    assert secret not in json.dumps(redacted({"a": [{"b": text}], "c": 1}))


@pytest.mark.parametrize("name", ["a.txt", "ab.txt", "abc.txt"])
async def test_an_address_that_the_local_store_signed_is_a_secret_however_long_it_is(name: str, tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path, b"k" * 32)
    url = await storage.download_url(f"files/{UUID(int=0)}", FileType("textFiles", "text/plain"), name)
    assert redact(f"GET {url} took") == "GET /api/files/content/[redacted] took"


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "refresh_token", "GUEST_TOKEN", "db.password"])
def test_a_member_with_the_name_of_a_secret_is_one_whatever_it_holds(name: str) -> None:
    assert redacted({"headers": {name: "abc", "accept": "*/*"}}) == {"headers": {name: "[redacted]", "accept": "*/*"}}


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/sessions/3f0c3b8e-2b77-4f2e-9a37-0d1d8f0e9f11 took 12.5 ms",
        '{"input_tokens": 12, "output_tokens": 34, "total_tokens": 46}',
        "The token budget of 4096 tokens is used up.",
        "Sign in, or send a valid token, and try again.",
        "app.py:120 read_session",
        "https://api.example.com/api/sessions?limit=20&cursor=abc",
        "sha256:0123456789abcdef",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


# A pattern that goes back over what it has read would take minutes.
@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ["a" * 500_000, "eyJ" * 200_000, "key=" * 100_000, "://" * 150_000, '\\"' * 200_000])
def test_a_long_line_is_read_once(text: str) -> None:
    redact(text)


def test_no_secret_reaches_the_log_by_a_message_an_argument_or_an_exception(log_lines: LogLines) -> None:
    for text, _ in SECRETS:
        logger.info(text, extra={"more": {"headers": [text]}})
        try:
            raise RuntimeError(text)
        except RuntimeError:
            logger.exception("failed")
    assert len(log_lines.of("failed")) == len(SECRETS)
    for text, secret in SECRETS:
        assert secret not in log_lines.text, text
