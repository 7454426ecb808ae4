"""A real issuer of tokens on a loopback port: it serves its public keys and signs what a test asks for."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SUBJECT = "6a0e1d6c-3f54-4f4a-9d3f-7a0f3c1b2a3d"
Algorithm = Literal["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class SigningKey:
    """A private key with its `kid` and the algorithm that it signs with."""

    key_id: str
    algorithm: Algorithm
    private: PrivateKey

    def public_jwk(self) -> dict[str, Any]:
        """The public half as it stands in a key set."""
        algorithm: Any = jwt.get_algorithm_by_name(self.algorithm)
        jwk: dict[str, Any] = algorithm.to_jwk(self.private.public_key(), as_dict=True)
        return jwk | {"kid": self.key_id, "alg": self.algorithm, "use": "sig"}


class LocalIssuer:
    """An issuer whose `iss` is its address, with its key set at `/.well-known/jwks.json`.

    As a context manager it is up inside the block. `fetches` counts the requests for its keys. `keys` is what it
    serves and `extra_keys` what it serves besides; the last of `keys` signs. `answer` replaces the key set by another
    status and body, `redirect_to` sends on to another address. While `answering` is cleared, requests wait for it;
    while `dripping` is set, a blank comes every 20 ms before the answer; `asked` is set when a request has come.
    `clock` gives the time of its tokens in seconds since 1970.
    """

    def __init__(self, algorithm: Algorithm = "ES256", *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.keys = [new_key(algorithm)]
        self.extra_keys: list[dict[str, Any]] = []
        self.answer: tuple[int, bytes] | None = None
        self.redirect_to: str | None = None
        self.fetches = 0
        self.asked = threading.Event()
        self.answering = threading.Event()
        self.answering.set()
        self.dripping = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.come_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answering.set()
        self.dripping.clear()
        self.go_down()

    @property
    def url(self) -> str:
        """Its address, which is also its `iss`; the same after it was down."""
        return f"http://127.0.0.1:{self._port}"

    def come_up(self) -> None:
        """Serve, on a free port at first and on the same one later."""
        if self._server is None:
            self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler_of(self))
            self._port = self._server.server_port
            threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def go_down(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def rotate(self, algorithm: Algorithm = "ES256") -> SigningKey:
        """Sign with a new key from now on and withdraw the old ones."""
        self.keys = [new_key(algorithm)]
        return self.keys[-1]

    def token(self, *, key: SigningKey | None = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token of one hour for the audience `threadkeep`; `claims` replace what it says, None leaves one out."""
        key = key or self.keys[-1]
        # Below jwt.encode, which refuses to sign some of the claims that a test wants to see refused.
        payload = json.dumps(self.claims(**claims)).encode()
        return jwt.PyJWS().encode(payload, key.private, key.algorithm, {"kid": key.key_id} | (headers or {}))

    def cognito_access(self, client_id: str = "web", **claims: Any) -> str:
        """An access token as a Cognito user pool makes it: no `aud`, the app client in `client_id`."""
        defaults: dict[str, Any] = {
            "aud": None,
            "token_use": "access",
            "client_id": client_id,
            "username": "ada",
            "scope": "openid",
        }
        return self.token(**(defaults | claims))

    def cognito_id(self, client_id: str = "web", **claims: Any) -> str:
        """An id token as a Cognito user pool makes it."""
        return self.token(**({"aud": client_id, "token_use": "id", "email": "ada@example.com"} | claims))

    def supabase(self, secret: str | None = None, **claims: Any) -> str:
        """A user's token as Supabase makes it, HS256 with the project's secret, or signed by a key without one."""
        defaults: dict[str, Any] = {"aud": "authenticated", "role": "authenticated", "is_anonymous": False}
        if secret is None:
            return self.token(**(defaults | claims))
        return jwt.encode(self.claims(**(defaults | claims)), secret, "HS256")

    def claims(self, **claims: Any) -> dict[str, Any]:
        """The claims of an ordinary token with these changes."""
        now = int(self.clock())
        merged = {"iss": self.url, "sub": SUBJECT, "aud": "threadkeep", "iat": now, "exp": now + 3600} | claims
        return {claim: value for claim, value in merged.items() if value is not None}

    def key_set(self) -> bytes:
        """What its address answers."""
        return json.dumps({"keys": self.extra_keys + [key.public_jwk() for key in self.keys]}).encode()


def new_key(algorithm: Algorithm = "ES256", key_id: str | None = None) -> SigningKey:
    """A key of its own `kid`. RSA keys are made once, because that takes a tenth of a second."""
    private: PrivateKey
    match algorithm:
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            private = ec.generate_private_key(ec.SECP384R1())
        case "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        case _:
            private = _rsa_key()
    return SigningKey(key_id or f"key-{next(_numbers)}", algorithm, private)


_numbers = itertools.count(1)


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _handler_of(issuer: LocalIssuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.fetches += 1
            issuer.asked.set()
            issuer.answering.wait()
            found = self.path == "/.well-known/jwks.json"
            status, body = issuer.answer or ((200, issuer.key_set()) if found else (404, b"{}"))
            if issuer.redirect_to:
                status = 302
            self.send_response(status)
            if issuer.redirect_to:
                self.send_header("Location", issuer.redirect_to)
            self.end_headers()
            with suppress(ConnectionError):  # the client may have read enough
                while issuer.dripping.is_set():
                    self.wfile.write(b" ")
                    time.sleep(0.02)
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Tests print nothing."""

    return Handler
