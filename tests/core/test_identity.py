from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.issuer import SUBJECT, Algorithm, LocalIssuer, new_key
from threadkeep import issuers, tokens
from threadkeep.errors import ThreadkeepError
from threadkeep.guests import LIFETIME, address_hash, issue_guest, read_guest, renewed_guest
from threadkeep.identity import ANONYMOUS, SERVICE, Authenticator, Principal, user_id_of
from threadkeep.settings import Settings, SettingsError

SECRET = "a-secret-of-an-issuer-0123456789abcdef"
OLD_KEY = "the-older-key-of-guests-0123456789abcdef"
NEW_KEY = "the-newer-key-of-guests-0123456789abcdef"
GUEST = UUID("11111111-2222-4333-8444-555555555555")


class Clock:
    """A time that moves only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(clock: Clock) -> Iterator[LocalIssuer]:
    with LocalIssuer(clock=clock) as running:
        yield running


def configured(*entries: dict[str, Any], **environ: str) -> Settings:
    """Settings with these issuers, each of kind oidc and audience threadkeep unless it says otherwise."""
    defaults = {"kind": "oidc", "audience": "threadkeep"}
    return Settings.load(
        {
            "DATABASE_URL": "postgresql://localhost/threadkeep",
            "GUEST_TOKEN_KEYS": json.dumps({"new": NEW_KEY, "old": OLD_KEY}),
            "AUTH_ISSUERS": json.dumps([defaults | entry for entry in entries]),
        }
        | environ
    )


@pytest.fixture
def authenticator(issuer: LocalIssuer, clock: Clock) -> Authenticator:
    return Authenticator(configured({"issuer": issuer.url}), clock=clock)


async def refused(authenticator: Authenticator, bearer: str | None, cookie: str | None = None) -> str:
    """The code of the refusal, which has the same sentence for everybody."""
    with pytest.raises(ThreadkeepError) as caught:
        await authenticator.authenticate(bearer, cookie)
    return caught.value.code


def segment(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"])
async def test_a_token_of_a_configured_issuer_brings_its_user_in(
    algorithm: Algorithm, issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    issuer.rotate(algorithm)
    principal = await authenticator.authenticate(issuer.token(email="ada@example.com", name="Ada"), None)
    assert principal == Principal(
        user_id=UUID(SUBJECT),
        role="authenticated",
        issuer=issuer.url,
        subject=SUBJECT,
        email="ada@example.com",
        name="Ada",
        issued_at=datetime.fromtimestamp(1_800_000_000, UTC),
        expires_at=datetime.fromtimestamp(1_800_003_600, UTC),
    )


async def test_no_token_is_nobody(authenticator: Authenticator, issuer: LocalIssuer) -> None:
    assert await authenticator.authenticate(None, None) is ANONYMOUS
    assert await authenticator.authenticate(None, "") is ANONYMOUS
    assert issuer.fetches == 0


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere.example.com"},
        {"iss": None},
        {"iss": 7},
        {"iss": ["https://elsewhere.example.com"]},
        {"aud": "somebody-else"},
        {"aud": ["somebody-else", "another"]},
        {"aud": None},
        {"aud": {}},
        {"sub": None},
        {"sub": ""},
        {"sub": 42},
        {"sub": "x" * 256},
        {"sub": "a\x00b"},
        {"sub": "\ud800"},
        {"jti": 1},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**18},
        {"exp": -1},
        {"iat": "then"},
        {"iat": True},
        {"nbf": []},
        {"role": "service_role"},
        {"role": "admin"},
        {"role": ""},
        {"role": ["authenticated"]},
        {"role": {"authenticated": True}},
    ],
    ids=repr,
)
async def test_a_well_signed_token_with_a_wrong_claim_is_refused(
    claims: dict[str, Any], issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    assert await refused(authenticator, issuer.token(**claims)) == "unauthorized:auth"


async def test_a_role_of_null_is_refused(issuer: LocalIssuer, authenticator: Authenticator) -> None:
    token = jwt.encode(
        issuer.claims() | {"role": None},
        issuer.keys[0].private,
        issuer.keys[0].algorithm,
        {"kid": issuer.keys[0].key_id},
    )
    assert await refused(authenticator, token) == "unauthorized:auth"


async def test_one_of_several_audiences_is_enough(issuer: LocalIssuer, clock: Clock) -> None:
    authenticator = Authenticator(configured({"issuer": issuer.url, "audience": ["web", "app"]}), clock=clock)
    for audience in ("app", ["other", "web"]):
        assert (await authenticator.authenticate(issuer.token(aud=audience), None)).user_id == UUID(SUBJECT)


@pytest.mark.parametrize(
    ("seconds", "claim", "welcome"),
    [
        (3600 + 29, "exp", True),
        (3600 + 30, "exp", False),
        (-30, "iat", True),
        (-31, "iat", False),
        (-30, "nbf", True),
        (-31, "nbf", False),
    ],
)
async def test_a_token_is_good_from_its_beginning_to_its_end_with_half_a_minute_for_clocks_that_differ(
    seconds: int, claim: str, welcome: bool, issuer: LocalIssuer, authenticator: Authenticator, clock: Clock
) -> None:
    start = int(clock.now)
    times: dict[str, Any] = {"iat": None, "nbf": None, "exp": start + 3600} | ({claim: start} if claim != "exp" else {})
    token = issuer.token(**times)
    clock.now += seconds
    if welcome:
        assert (await authenticator.authenticate(token, None)).user_id == UUID(SUBJECT)
    else:
        assert await refused(authenticator, token) == "unauthorized:auth"


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        " ",
        "garbage",
        "a.b.c",
        "..",
        "....",
        "\x00",
        "\ud800",
        "ünïcode.ünïcode.ünïcode",
        "eyJhbGciOiJFUzI1NiJ9.e30.",
        f"{segment([])}.{segment([])}.AAAA",
        f"{segment({'alg': 7})}.{segment({'iss': 'x'})}.AAAA",
        f"{segment({'alg': 'ES256', 'kid': 7})}.{segment({'iss': 'x'})}.AAAA",
        f"{segment({'alg': 'ES256'})}.{segment(b'[' * 5000)}.AAAA",
        f"{segment({'alg': 'ES256', 'crit': ['exp']})}.{segment({'iss': 'x'})}.AAAA",
    ],
    ids=itertools.count(),
)
async def test_garbage_is_refused(garbage: str, authenticator: Authenticator) -> None:
    assert await refused(authenticator, garbage) == "unauthorized:auth"
    if garbage:
        assert await refused(authenticator, None, garbage) == "unauthorized:auth"


async def test_a_token_beyond_8_kilobytes_is_refused_before_its_issuer_is_asked(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    assert await refused(authenticator, issuer.token(padding="x" * 8192)) == "unauthorized:auth"
    assert issuer.fetches == 0


async def test_a_token_that_was_tampered_with_is_refused(issuer: LocalIssuer, authenticator: Authenticator) -> None:
    header, _, signature = issuer.token().split(".")
    payload = segment(issuer.claims(app_metadata={"role": "admin"}))
    assert await refused(authenticator, f"{header}.{payload}.{signature}") == "unauthorized:auth"


async def test_a_key_of_the_same_name_that_is_not_the_issuers_is_refused(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    impostor = new_key("ES256", issuer.keys[0].key_id)
    assert await refused(authenticator, issuer.token(key=impostor)) == "unauthorized:auth"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", ""])
async def test_an_unsigned_token_is_refused(algorithm: str, issuer: LocalIssuer, authenticator: Authenticator) -> None:
    header = segment({"alg": algorithm, "typ": "JWT", "kid": issuer.keys[0].key_id})
    for signature in ("", "AAAA"):
        token = f"{header}.{segment(issuer.claims())}.{signature}"
        assert await refused(authenticator, token) == "unauthorized:auth"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
async def test_the_public_key_is_no_secret_to_sign_with(
    form: str, algorithm: str, issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    key = issuer.rotate("RS256")
    public = key.private.public_key()
    secret = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(key.public_jwk()).encode(),
    }[form]
    signed = f"{segment({'alg': algorithm, 'kid': key.key_id})}.{segment(issuer.claims())}"
    signature = hmac.digest(secret, signed.encode(), f"sha{algorithm[2:]}")
    assert await refused(authenticator, f"{signed}.{segment(signature)}") == "unauthorized:auth"


async def test_a_key_signs_with_the_algorithm_that_its_issuer_says_and_with_no_other(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    key = issuer.rotate("RS256")
    assert (await authenticator.authenticate(issuer.token(), None)).user_id == UUID(SUBJECT)
    other = replace(key, algorithm="RS512")
    assert await refused(authenticator, issuer.token(key=other)) == "unauthorized:auth"


async def test_only_public_keys_for_signatures_count_in_a_key_set(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    jwk = new_key("ES256", "encryption")
    octets = segment(SECRET.encode())
    issuer.extra_keys = [
        jwk.public_jwk() | {"use": "enc"},
        {"kty": "oct", "k": octets, "kid": "oct", "alg": "HS256"},
        {"kty": "oct", "k": octets, "kid": "posing", "alg": "ES256", "crv": "P-256"},
        {"kty": "EC", "crv": "P-256", "kid": "broken", "x": "AA", "y": "AA"},
        {"kty": ["EC"], "kid": "odd"},
        jwk.public_jwk() | {"kid": "unsigned", "alg": "none"},
        {"kty": "EC", "crv": "secp256k1", "kid": "curve"},
        {"kid": "empty"},
    ]
    assert (await authenticator.authenticate(issuer.token(), None)).user_id == UUID(SUBJECT)
    assert await refused(authenticator, issuer.token(key=jwk)) == "unauthorized:auth"
    for key_id in ("oct", "posing"):
        token = jwt.encode(issuer.claims(), SECRET, "HS256", {"kid": key_id})
        assert await refused(authenticator, token) == "unauthorized:auth"


async def test_an_rsa_key_of_1024_bits_is_refused(issuer: LocalIssuer, authenticator: Authenticator) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    weak = replace(new_key("RS256", "weak"), private=rsa.generate_private_key(65537, 1024))
    issuer.extra_keys = [weak.public_jwk()]
    with pytest.warns(UserWarning, match="below"):
        token = issuer.token(key=weak)
    assert await refused(authenticator, token) == "unauthorized:auth"


async def test_a_shared_secret_is_taken_from_the_issuer_that_was_configured_with_it_alone(
    issuer: LocalIssuer, clock: Clock
) -> None:
    token = jwt.encode(issuer.claims(), SECRET, "HS256")
    with_secret = Authenticator(configured({"issuer": issuer.url, "secret": SECRET}), clock=clock)
    assert (await with_secret.authenticate(token, None)).user_id == UUID(SUBJECT)
    without = Authenticator(
        configured({"issuer": issuer.url}, {"issuer": "https://other.example.com", "secret": SECRET}), clock=clock
    )
    assert await refused(without, token) == "unauthorized:auth"


async def test_an_issuer_with_a_secret_is_never_asked_for_keys(issuer: LocalIssuer, clock: Clock) -> None:
    authenticator = Authenticator(configured({"issuer": issuer.url, "secret": SECRET}), clock=clock)
    assert await refused(authenticator, issuer.token()) == "unauthorized:auth"
    assert await refused(authenticator, jwt.encode(issuer.claims(), SECRET[::-1], "HS256")) == "unauthorized:auth"
    assert await refused(authenticator, jwt.encode(issuer.claims(), SECRET * 2, "HS512")) == "unauthorized:auth"
    assert issuer.fetches == 0


async def test_a_project_that_moves_from_its_secret_to_keys_has_both(issuer: LocalIssuer, clock: Clock) -> None:
    entry = {
        "issuer": issuer.url,
        "kind": "supabase",
        "audience": "authenticated",
        "secret": SECRET,
        "jwksUrl": f"{issuer.url}/.well-known/jwks.json",
    }
    authenticator = Authenticator(configured(entry), clock=clock)
    for token in (issuer.supabase(SECRET), issuer.supabase()):
        assert (await authenticator.authenticate(token, None)).user_id == UUID(SUBJECT)


async def test_the_keys_are_fetched_once_for_many_requests_at_once(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    token = issuer.token()
    principals = await asyncio.gather(*(authenticator.authenticate(token, None) for _ in range(30)))
    assert {principal.user_id for principal in principals} == {UUID(SUBJECT)}
    assert issuer.fetches == 1


async def test_the_keys_are_fetched_again_after_an_hour(
    issuer: LocalIssuer, authenticator: Authenticator, clock: Clock
) -> None:
    for seconds, fetches in ((0, 1), (3599, 1), (1, 2), (1, 2)):
        clock.now += seconds
        await authenticator.authenticate(issuer.token(), None)
        assert issuer.fetches == fetches


async def test_a_rotated_key_is_found_by_one_more_fetch_and_the_old_one_ends(
    issuer: LocalIssuer, authenticator: Authenticator, clock: Clock
) -> None:
    old = issuer.token()
    await authenticator.authenticate(old, None)
    issuer.rotate("EdDSA")
    clock.now += 10
    await authenticator.authenticate(issuer.token(), None)
    assert issuer.fetches == 2
    assert await refused(authenticator, old) == "unauthorized:auth"
    assert issuer.fetches == 2


async def test_invented_key_names_do_not_become_requests_to_the_issuer(
    issuer: LocalIssuer, authenticator: Authenticator, clock: Clock
) -> None:
    await authenticator.authenticate(issuer.token(), None)
    for window in range(1, 4):
        clock.now += 10
        forged = [issuer.token(key=new_key()) for _ in range(20)]
        codes = await asyncio.gather(*(refused(authenticator, token) for token in forged))
        assert set(codes) == {"unauthorized:auth"}
        clock.now += 9
        assert await refused(authenticator, issuer.token(key=new_key())) == "unauthorized:auth"
        assert issuer.fetches == 1 + window
        clock.now -= 9


async def test_a_token_that_no_public_key_signs_is_refused_without_a_fetch(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    for header in ({"alg": "HS256", "kid": "x"}, {"alg": "none", "kid": "x"}, {"alg": "XX999", "kid": "x"}):
        token = f"{segment(header)}.{segment(issuer.claims())}.AAAA"
        assert await refused(authenticator, token) == "unauthorized:auth"
    unnamed = jwt.encode(issuer.claims(), issuer.keys[0].private, "ES256")
    assert await refused(authenticator, unnamed) == "unauthorized:auth"
    assert issuer.fetches == 0


async def test_while_the_issuer_is_away_the_keys_at_hand_serve_for_a_day(
    issuer: LocalIssuer, authenticator: Authenticator, clock: Clock
) -> None:
    await authenticator.authenticate(issuer.token(), None)
    issuer.go_down()
    clock.now += 23 * 3600
    assert (await authenticator.authenticate(issuer.token(), None)).user_id == UUID(SUBJECT)
    clock.now += 3600 + 1
    assert await refused(authenticator, issuer.token()) == "unavailable:auth"
    issuer.come_up()
    clock.now += 10
    assert (await authenticator.authenticate(issuer.token(), None)).user_id == UUID(SUBJECT)


async def test_without_keys_and_issuer_a_token_is_neither_good_nor_bad(
    issuer: LocalIssuer, authenticator: Authenticator, clock: Clock
) -> None:
    issuer.go_down()
    with pytest.raises(ThreadkeepError) as caught:
        await authenticator.authenticate(issuer.token(), None)
    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("unavailable:auth", 503, 2)
    issuer.come_up()
    assert await refused(authenticator, issuer.token()) == "unavailable:auth"
    assert issuer.fetches == 0
    clock.now += 2
    assert (await authenticator.authenticate(issuer.token(), None)).user_id == UUID(SUBJECT)


async def test_a_new_key_of_an_issuer_that_is_away_is_not_called_bad(
    issuer: LocalIssuer, authenticator: Authenticator, clock: Clock
) -> None:
    await authenticator.authenticate(issuer.token(), None)
    issuer.go_down()
    clock.now += 10
    assert await refused(authenticator, issuer.token(key=new_key())) == "unavailable:auth"
    assert (await authenticator.authenticate(issuer.token(), None)).user_id == UUID(SUBJECT)


@pytest.mark.parametrize(
    "answer",
    [
        (500, b'{"keys": []}'),
        (404, b"{}"),
        (200, b""),
        (200, b"<html></html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"keys": {}}'),
        (200, b"\xff\xfe"),
        (200, b"[" * 200_000),
        (200, b'{"keys": []}' + b" " * 300_000),
    ],
    ids=itertools.count(),
)
async def test_an_answer_that_is_no_key_set_counts_as_no_answer(
    answer: tuple[int, bytes], issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    issuer.answer = answer
    assert await refused(authenticator, issuer.token()) == "unavailable:auth"


async def test_an_empty_key_set_is_an_answer(issuer: LocalIssuer, authenticator: Authenticator) -> None:
    issuer.answer = (200, b'{"keys": []}')
    assert await refused(authenticator, issuer.token()) == "unauthorized:auth"


async def test_the_address_of_the_keys_leads_nowhere_else(
    issuer: LocalIssuer, authenticator: Authenticator, clock: Clock
) -> None:
    with LocalIssuer(clock=clock) as elsewhere:
        issuer.redirect_to = f"{elsewhere.url}/.well-known/jwks.json"
        assert await refused(authenticator, issuer.token(key=elsewhere.keys[0])) == "unavailable:auth"
        assert elsewhere.fetches == 0


async def test_an_issuer_that_says_nothing_is_given_up_on(
    issuer: LocalIssuer, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers, "TIMEOUT_SECONDS", 0.1)
    issuer.answering.clear()
    try:
        async with asyncio.timeout(5):
            assert await refused(authenticator, issuer.token()) == "unavailable:auth"
    finally:
        issuer.answering.set()


async def test_an_issuer_that_answers_drop_by_drop_is_given_up_on(
    issuer: LocalIssuer, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers, "TIMEOUT_SECONDS", 0.2)
    issuer.dripping.set()
    try:
        async with asyncio.timeout(5):
            assert await refused(authenticator, issuer.token()) == "unavailable:auth"
    finally:
        issuer.dripping.clear()


async def test_a_caller_that_leaves_does_not_end_the_fetch_for_the_others(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    issuer.answering.clear()
    leaver = asyncio.create_task(authenticator.authenticate(issuer.token(), None))
    stayer = asyncio.create_task(authenticator.authenticate(issuer.token(), None))
    assert await asyncio.to_thread(issuer.asked.wait, 5)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    issuer.answering.set()
    assert (await stayer).user_id == UUID(SUBJECT)
    assert issuer.fetches == 1


async def test_a_user_is_the_same_at_one_issuer_and_never_another_ones(clock: Clock) -> None:
    with LocalIssuer(clock=clock) as first, LocalIssuer(clock=clock) as second:
        authenticator = Authenticator(configured({"issuer": first.url}, {"issuer": second.url}), clock=clock)
        ids = [(await authenticator.authenticate(issuer.token(), None)).user_id for issuer in (first, second, second)]
        crossed = second.token(iss=first.url)
        assert await refused(authenticator, crossed) == "unauthorized:auth"
    assert ids[0] == UUID(SUBJECT)
    assert ids[1] == ids[2] != ids[0]


def test_only_the_primary_issuers_lower_case_uuids_are_user_ids_as_they_are() -> None:
    settings = configured({"issuer": "https://first.example.com"}, {"issuer": "https://second.example.com"})
    upper = SUBJECT.upper()
    assert user_id_of(settings, "https://first.example.com", SUBJECT) == UUID(SUBJECT)
    others = [
        user_id_of(settings, "https://first.example.com", upper),
        user_id_of(settings, "https://first.example.com", SUBJECT.replace("-", "")),
        user_id_of(settings, "https://first.example.com", f"{{{SUBJECT}}}"),
        user_id_of(settings, "https://first.example.com", "auth0|ada"),
        user_id_of(settings, "https://second.example.com", SUBJECT),
        user_id_of(settings, "https://second.example.com", "auth0|ada"),
        user_id_of(settings, "https://third.example.com", SUBJECT),
    ]
    assert len({UUID(SUBJECT), *others}) == 8
    assert {other.version for other in others} == {5}


def test_the_user_of_a_text_stays_the_same_for_ever() -> None:
    settings = configured({"issuer": "https://first.example.com"})
    assert user_id_of(settings, "https://first.example.com", "auth0|ada") == UUID(
        "382f1fa0-d9fa-5720-8573-331295e35f2e"
    )


@pytest.mark.parametrize(
    ("claims", "is_admin"),
    [
        ({}, False),
        ({"app_metadata": {"role": "admin"}}, True),
        ({"app_metadata": {"role": "Admin"}}, False),
        ({"app_metadata": {"role": ["admin"]}}, False),
        ({"app_metadata": "admin"}, False),
        ({"app_metadata": ["role", "admin"]}, False),
        ({"user_metadata": {"role": "admin"}}, False),
        ({"user_metadata": {"app_metadata": {"role": "admin"}}}, False),
        ({"cognito:groups": ["admin"]}, False),
        ({"groups": ["admin"]}, False),
        ({"is_admin": True}, False),
        ({"is_anonymous": True, "app_metadata": {"role": "admin"}}, False),
    ],
    ids=repr,
)
async def test_an_administrator_is_one_by_app_metadata_only(
    claims: dict[str, Any], is_admin: bool, issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    principal = await authenticator.authenticate(issuer.token(**claims), None)
    assert principal.is_admin is is_admin
    assert json.loads(principal.claims)["app_metadata"] == {"role": "admin" if is_admin else "user"}


async def test_the_database_sees_normalised_claims_and_nothing_else(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    token = issuer.token(
        sub="auth0|ada",
        email="ada@example.com",
        app_metadata={"role": "admin", "plan": "gold"},
        user_metadata={"role": "admin"},
        scope="everything",
    )
    principal = await authenticator.authenticate(token, None)
    assert json.loads(principal.claims) == {
        "sub": str(principal.user_id),
        "role": "authenticated",
        "app_metadata": {"role": "admin"},
        "is_anonymous": False,
    }


def test_nobody_and_the_service_have_claims_of_their_own() -> None:
    assert json.loads(ANONYMOUS.claims) == {
        "sub": None,
        "role": "anon",
        "app_metadata": {"role": "user"},
        "is_anonymous": False,
    }
    assert SERVICE.role == "service_role"
    assert json.loads(SERVICE.claims) == {"role": "service_role"}
    assert not isinstance(SERVICE, Principal)


async def test_names_that_postgresql_could_not_store_are_cleaned(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    token = issuer.token(email="a\x00da@example.com", name="A\ud800d\na " + "x" * 300)
    principal = await authenticator.authenticate(token, None)
    assert principal.email == "ada@example.com"
    assert principal.name is not None
    assert principal.name.startswith("Ada xxx")
    assert len(principal.name) == 200
    odd = await authenticator.authenticate(issuer.token(email=["x"], user_metadata={"full_name": "Ada"}), None)
    assert (odd.email, odd.name) == (None, "Ada")


async def test_a_principal_that_is_printed_shows_no_personal_data(
    issuer: LocalIssuer, authenticator: Authenticator
) -> None:
    principal = await authenticator.authenticate(issuer.token(sub="ada-subject", email="ada@x.org", name="Ada"), None)
    assert "ada" not in repr(principal).lower()


@pytest.fixture
def cognito(issuer: LocalIssuer, clock: Clock) -> Authenticator:
    entry = {"issuer": issuer.url, "kind": "cognito", "audience": ["web", "app"]}
    return Authenticator(configured(entry), clock=clock)


async def test_a_cognito_access_token_of_a_known_app_client_is_let_in(
    issuer: LocalIssuer, cognito: Authenticator
) -> None:
    for client in ("web", "app"):
        assert (await cognito.authenticate(issuer.cognito_access(client), None)).user_id == UUID(SUBJECT)


async def test_a_cognito_token_of_another_client_or_use_is_refused(issuer: LocalIssuer, cognito: Authenticator) -> None:
    for token in (
        issuer.cognito_access("somebody-else"),
        issuer.cognito_access("somebody-else", aud="web"),
        issuer.cognito_access(client_id=["web"]),  # type: ignore[arg-type]
        issuer.cognito_access(token_use="refresh"),
        issuer.cognito_access(token_use=None),
        issuer.cognito_id("web"),
        issuer.cognito_id("web", scope="openid"),
        issuer.token(aud="web", client_id="web", token_use="id"),
        issuer.token(aud="web"),
    ):
        assert await refused(cognito, token) == "unauthorized:auth"


@pytest.mark.parametrize(
    ("claims", "is_admin"),
    [
        ({"cognito:groups": ["users", "admin"]}, True),
        ({"cognito:groups": ["administrators"]}, False),
        ({"cognito:groups": "admin"}, False),
        ({"cognito:groups": {"admin": 1}}, False),
        ({"custom:role": "admin"}, False),
    ],
    ids=repr,
)
async def test_an_administrator_of_cognito_is_in_the_group_admin(
    claims: dict[str, Any], is_admin: bool, issuer: LocalIssuer, cognito: Authenticator
) -> None:
    assert (await cognito.authenticate(issuer.cognito_access(**claims), None)).is_admin is is_admin


@pytest.fixture
def supabase(issuer: LocalIssuer, clock: Clock) -> Authenticator:
    entry = {"issuer": issuer.url, "kind": "supabase", "audience": "authenticated", "secret": SECRET}
    return Authenticator(configured(entry), clock=clock)


async def test_a_supabase_user_is_let_in(issuer: LocalIssuer, supabase: Authenticator) -> None:
    principal = await supabase.authenticate(issuer.supabase(SECRET, user_metadata={"full_name": "Ada"}), None)
    assert (principal.user_id, principal.role, principal.is_guest) == (UUID(SUBJECT), "authenticated", False)
    assert principal.name == "Ada"


async def test_an_anonymous_sign_in_at_supabase_is_a_guest(issuer: LocalIssuer, supabase: Authenticator) -> None:
    principal = await supabase.authenticate(issuer.supabase(SECRET, is_anonymous=True), None)
    assert (principal.user_id, principal.is_guest) == (UUID(SUBJECT), True)
    assert json.loads(principal.claims)["is_anonymous"] is True
    assert renewed_guest(configured(), principal) is None


async def test_a_guest_whose_client_also_sends_the_anon_key_stays_the_same_guest(
    issuer: LocalIssuer, supabase: Authenticator, clock: Clock
) -> None:
    anon_key = jwt.encode(issuer.claims(iss="supabase", role="anon", aud=None, sub=None), SECRET, "HS256")
    guest = issue_guest(configured(), now=clock.now)
    principal = await supabase.authenticate(anon_key, guest.token)
    assert (principal.user_id, principal.by_cookie) == (guest.user_id, True)
    assert await refused(supabase, anon_key, guest.token + "A") == "unauthorized:auth"


@pytest.mark.parametrize("key_issuer", ["supabase", "supabase-demo"])
async def test_the_anon_key_of_a_supabase_project_is_nobody(
    key_issuer: str, issuer: LocalIssuer, supabase: Authenticator
) -> None:
    def project_key(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
        merged = {"iss": key_issuer, "ref": "p", "aud": None, "sub": None} | claims
        return jwt.encode(issuer.claims(**merged), secret, algorithm)

    assert await supabase.authenticate(project_key(role="anon"), None) is ANONYMOUS
    for wrong in (
        project_key(role="service_role"),
        project_key(role="authenticated", sub=SUBJECT),
        project_key(role="authenticated"),
        project_key(),
        project_key(role="anon", secret=SECRET[::-1]),
        project_key(role="anon", secret=SECRET * 2, algorithm="HS512"),
        project_key(role="anon", exp=1),
        project_key(role="anon", exp=None),
        project_key(role="anon", iss="another"),
    ):
        assert await refused(supabase, wrong) == "unauthorized:auth"


async def test_the_anon_key_opens_nothing_where_no_supabase_is_configured(issuer: LocalIssuer, clock: Clock) -> None:
    authenticator = Authenticator(configured({"issuer": issuer.url, "secret": SECRET}), clock=clock)
    token = jwt.encode(issuer.claims(iss="supabase", role="anon", aud=None, sub=None), SECRET, "HS256")
    assert await refused(authenticator, token) == "unauthorized:auth"


async def test_the_role_anon_of_an_issuer_is_nobody_whatever_else_the_token_says(
    issuer: LocalIssuer, supabase: Authenticator
) -> None:
    token = issuer.supabase(SECRET, role="anon", app_metadata={"role": "admin"})
    assert await supabase.authenticate(token, None) is ANONYMOUS


@pytest.fixture
def settings() -> Settings:
    return configured()


@pytest.fixture
def door(settings: Settings, clock: Clock) -> Authenticator:
    return Authenticator(settings, clock=clock)


async def test_a_guest_comes_in_by_bearer_token_or_cookie(
    settings: Settings, door: Authenticator, clock: Clock
) -> None:
    guest = issue_guest(settings, now=clock.now)
    assert guest.user_id.version == 4
    assert guest.expires_at - guest.issued_at == LIFETIME == timedelta(days=30)
    by_bearer = await door.authenticate(guest.token, None)
    assert by_bearer.user_id == guest.user_id
    assert (by_bearer.role, by_bearer.is_guest, by_bearer.is_admin) == ("authenticated", True, False)
    assert by_bearer.expires_at == guest.expires_at
    assert json.loads(by_bearer.claims) == {
        "sub": str(guest.user_id),
        "role": "authenticated",
        "app_metadata": {"role": "user"},
        "is_anonymous": True,
    }
    by_cookie = await door.authenticate(None, guest.token)
    assert (by_bearer.by_cookie, by_cookie.by_cookie) == (False, True)
    assert replace(by_cookie, by_cookie=False) == by_bearer


def test_every_guest_is_a_new_one(settings: Settings) -> None:
    assert len({issue_guest(settings).user_id for _ in range(100)}) == 100


async def test_a_bearer_token_wins_over_the_cookie_even_if_it_is_bad(
    issuer: LocalIssuer, authenticator: Authenticator, settings: Settings, clock: Clock
) -> None:
    guest = issue_guest(settings, now=clock.now)
    principal = await authenticator.authenticate(issuer.token(), guest.token)
    assert (principal.user_id, principal.by_cookie) == (UUID(SUBJECT), False)
    for bad in ("", "garbage", issuer.token(exp=1)):
        assert await refused(authenticator, bad, guest.token) == "unauthorized:auth"


async def test_a_cookie_holds_no_account(issuer: LocalIssuer, authenticator: Authenticator) -> None:
    assert await refused(authenticator, None, issuer.token()) == "unauthorized:auth"


async def test_a_guest_token_ends_after_30_days(settings: Settings, door: Authenticator, clock: Clock) -> None:
    guest = issue_guest(settings, now=clock.now)
    clock.now += 30 * 86400 + 29
    assert (await door.authenticate(guest.token, None)).user_id == guest.user_id
    clock.now += 1
    assert await refused(door, guest.token) == "unauthorized:auth"
    assert await refused(door, None, guest.token) == "unauthorized:auth"


async def test_a_guest_keeps_its_id_when_its_token_is_renewed_at_half_time(
    settings: Settings, door: Authenticator, clock: Clock
) -> None:
    guest = issue_guest(settings, GUEST, now=clock.now)
    principal = await door.authenticate(guest.token, None)
    clock.now += 15 * 86400 - 1
    assert renewed_guest(settings, principal, now=clock.now) is None
    clock.now += 1
    renewed = renewed_guest(settings, principal, now=clock.now)
    assert renewed is not None
    assert renewed.user_id == GUEST
    assert renewed.expires_at == guest.expires_at + timedelta(days=15)
    assert (await door.authenticate(renewed.token, None)).user_id == GUEST


async def test_accounts_and_nobody_get_no_guest_token(
    issuer: LocalIssuer, authenticator: Authenticator, settings: Settings, clock: Clock
) -> None:
    principal = await authenticator.authenticate(issuer.token(), None)
    for somebody in (principal, ANONYMOUS):
        assert renewed_guest(settings, somebody, now=clock.now + 10 * 365 * 86400) is None


async def test_a_rotated_guest_key_verifies_until_it_is_taken_away(clock: Clock) -> None:
    old = configured(GUEST_TOKEN_KEYS=json.dumps({"old": OLD_KEY}))
    both = configured(GUEST_TOKEN_KEYS=json.dumps({"new": NEW_KEY, "old": OLD_KEY}))
    new = configured(GUEST_TOKEN_KEYS=json.dumps({"new": NEW_KEY}))
    before, after = issue_guest(old, now=clock.now).token, issue_guest(both, now=clock.now).token
    assert jwt.get_unverified_header(after)["kid"] == "new"
    for settings, token, welcome in (
        (both, before, True),
        (both, after, True),
        (new, after, True),
        (new, before, False),
        (old, after, False),
    ):
        door = Authenticator(settings, clock=clock)
        if welcome:
            assert (await door.authenticate(token, None)).is_guest
        else:
            assert await refused(door, token) == "unauthorized:auth"


async def test_a_guest_token_that_we_did_not_sign_is_refused(
    settings: Settings, door: Authenticator, clock: Clock
) -> None:
    claims = {"iss": "threadkeep-guest", "sub": str(GUEST), "iat": int(clock.now), "exp": int(clock.now) + 60}
    good = jwt.encode(claims, NEW_KEY, "HS256", {"kid": "new"})
    assert (await door.authenticate(good, None)).user_id == GUEST
    header, payload, signature = good.split(".")
    for forged in (
        jwt.encode(claims, "x" * 40, "HS256", {"kid": "new"}),
        jwt.encode(claims, OLD_KEY, "HS256", {"kid": "new"}),
        jwt.encode(claims, NEW_KEY, "HS256", {"kid": "unknown"}),
        jwt.encode(claims, NEW_KEY, "HS256"),
        jwt.encode(claims, NEW_KEY * 2, "HS512", {"kid": "new"}),
        jwt.encode(claims, "", "none", {"kid": "new"}),
        f"{header}.{segment(claims | {'sub': SUBJECT})}.{signature}",
        f"{header}.{payload}.",
    ):
        assert await refused(door, forged) == "unauthorized:auth"
        assert await refused(door, None, forged) == "unauthorized:auth"


async def test_no_issuer_can_make_guests(clock: Clock) -> None:
    with LocalIssuer(clock=clock) as issuer:
        settings = configured({"issuer": issuer.url, "secret": SECRET})
        door = Authenticator(settings, clock=clock)
        token = jwt.encode(issuer.claims(iss="threadkeep-guest"), SECRET, "HS256", {"kid": "new"})
        assert await refused(door, token) == "unauthorized:auth"


async def test_where_guests_are_switched_off_none_is_let_in(
    issuer: LocalIssuer, settings: Settings, clock: Clock
) -> None:
    entry = {"issuer": issuer.url, "kind": "supabase", "audience": "authenticated", "secret": SECRET}
    for environ in ({}, {"GUEST_TOKEN_KEYS": ""}):
        closed = Authenticator(configured(entry, GUESTS_ENABLED="false", **environ), clock=clock)
        guest = issue_guest(settings, now=clock.now).token
        assert await refused(closed, guest) == "unauthorized:auth"
        assert await refused(closed, None, guest) == "unauthorized:auth"
        assert await refused(closed, issuer.supabase(SECRET, is_anonymous=True)) == "unauthorized:auth"
        assert await closed.authenticate(None, None) is ANONYMOUS
        assert (await closed.authenticate(issuer.supabase(SECRET), None)).user_id == UUID(SUBJECT)


def test_guests_without_keys_to_sign_with_are_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match=r"^GUEST_TOKEN_KEYS: missing or empty"):
        Authenticator(configured(GUEST_TOKEN_KEYS=""))


def test_a_guest_that_is_claimed_is_read_from_its_token_alone(settings: Settings, clock: Clock) -> None:
    guest = issue_guest(settings, now=clock.now)
    assert read_guest(settings, guest.token, now=clock.now) == guest
    with pytest.raises(tokens.TokenError):
        read_guest(settings, guest.token + "A", now=clock.now)
    elsewhere = jwt.encode(
        {"iss": "elsewhere", "sub": SUBJECT, "iat": clock.now, "exp": clock.now + 60}, NEW_KEY, "HS256", {"kid": "new"}
    )
    with pytest.raises(tokens.TokenError):
        read_guest(settings, elsewhere, now=clock.now)
    assert guest.token not in repr(guest)


def test_an_address_counts_as_its_network_and_cannot_be_read_back(settings: Settings) -> None:
    def hashed(address: str) -> str:
        return address_hash(settings, address)

    assert hashed("203.0.113.7") == hashed(" 203.0.113.7 ") == hashed("::ffff:203.0.113.7")
    assert hashed("203.0.113.7") != hashed("203.0.113.8")
    assert hashed("2001:db8:1:2::1") == hashed("2001:0DB8:1:2:ffff:ffff:ffff:ffff")
    assert hashed("2001:db8:1:2::1") != hashed("2001:db8:1:3::1")
    assert hashed("fe80::1%eth0") == hashed("fe80::2")
    assert hashed("") == hashed("unknown") == hashed("203.0.113.7, 10.0.0.1") != hashed("203.0.113.7")
    assert len(bytes.fromhex(hashed("203.0.113.7"))) == 32
    assert hashed("203.0.113.7") != hashlib.sha256(b"203.0.113.7").hexdigest()
    other = configured(GUEST_TOKEN_KEYS=json.dumps({"k": os.urandom(32).hex()}))
    assert hashed("203.0.113.7") != address_hash(other, "203.0.113.7")
