"""The public keys of an issuer, fetched from its key set (JWKS) and kept in the process."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from threadkeep import tokens
from threadkeep.errors import ThreadkeepError

if TYPE_CHECKING:
    from jwt import PyJWK

KEPT_SECONDS: Final = 3600
KEPT_WITHOUT_ISSUER_SECONDS: Final = 24 * 3600
PAUSE_SECONDS: Final = 10
PAUSE_WITHOUT_KEYS_SECONDS: Final = 2
TIMEOUT_SECONDS: Final = 3
MAXIMUM_KEY_SET_BYTES: Final = 256 * 1024

logger = logging.getLogger(__name__)


class KeySet:
    """The keys at one address.

    They are fetched when first needed, again after an hour, and again for an unknown `kid`, because an issuer that
    rotates its keys signs with the new one at once. Whatever the reason, 10 seconds pass between two fetches, so that
    tokens with invented `kid`s do not become requests to the issuer. While the issuer does not answer, the keys
    at hand go on serving for a day. `clock` gives seconds since 1970.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched_at = -math.inf
        self._next_fetch_at = -math.inf
        self._failed = False
        self._fetch: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> PyJWK:
        """The key with this `kid`.

        Raises TokenError if the issuer has no such key, and `unavailable:auth` if it cannot be asked.
        """
        if self._clock() - self._fetched_at >= KEPT_SECONDS:
            await self._refresh()
        if key_id not in self._keys:
            await self._refresh()
        if key_id in self._keys:
            return self._keys[key_id]
        if self._failed:
            wait = math.ceil(self._next_fetch_at - self._clock())
            raise ThreadkeepError("unavailable:auth", retry_after=max(1, wait))
        raise tokens.TokenError("its issuer has no such key")

    async def _refresh(self) -> None:
        """Fetch the keys, or wait for the fetch that is under way, or do nothing if the last one was just now."""
        if self._fetch is None:
            if self._clock() < self._next_fetch_at:
                return
            self._fetch = asyncio.create_task(self._fetch_once())
        # Shielded, because the fetch is shared: one caller that leaves must not end it for the others.
        await asyncio.shield(self._fetch)

    async def _fetch_once(self) -> None:
        self._failed = True
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                self._keys = await asyncio.to_thread(_download, self._url)
            self._failed = False
            self._fetched_at = self._clock()
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("The keys at %s could not be fetched: %s", self._url, type(error).__name__)
            if self._clock() - self._fetched_at > KEPT_WITHOUT_ISSUER_SECONDS:
                self._keys = {}
        finally:
            pause = PAUSE_SECONDS if self._keys or not self._failed else PAUSE_WITHOUT_KEYS_SECONDS
            self._next_fetch_at = self._clock() + pause
            self._fetch = None


def _download(url: str) -> dict[str, PyJWK]:
    """The usable keys at this address by `kid`; OSError or ValueError if there is no key set."""
    from http.client import HTTPException
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class NoRedirects(HTTPRedirectHandler):
        """An address that was given as https must not lead to another one."""

        def redirect_request(self, *_: Any) -> None:
            return None

    request = Request(url, headers={"Accept": "application/json", "User-Agent": "threadkeep"})  # noqa: S310
    try:
        with build_opener(NoRedirects).open(request, timeout=TIMEOUT_SECONDS) as response:
            body = response.read(MAXIMUM_KEY_SET_BYTES + 1)
    except HTTPException as error:
        raise OSError(f"no HTTP answer: {type(error).__name__}") from error
    if len(body) > MAXIMUM_KEY_SET_BYTES:
        raise ValueError("the key set is too large")
    document = json.loads(body)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("there is no key set at this address")
    keys = (tokens.public_key(jwk) for jwk in document["keys"])
    return {key.key_id: key for key in keys if key is not None and key.key_id is not None}
