"""The way to PostgreSQL: every unit of work is one transaction and one network round trip.

A unit is an autocommit pipeline: all its statements up to the pipeline's end are one implicit transaction. Its first
statement takes the actor's role and claims for that transaction, so the policies decide; the login role may do
nothing by itself. Nothing here is session-level, so a transaction pooler may stand between.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, LiteralString, Self
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors as pg
from psycopg.abc import AdaptContext, Buffer, PQGen
from psycopg.adapt import Loader
from psycopg.generators import send
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from threadkeep.activity import Call
from threadkeep.errors import SENTENCES, FieldError, ThreadkeepError
from threadkeep.identity import Principal, Service
from threadkeep.settings import Secret

Actor = Principal | Service
Parameters = Mapping[str, Any]
Statement = tuple[LiteralString, Parameters]
Rows = list[DictRow]

RETRY_AFTER_SECONDS: Final = 2
WAIT_FOR_CONNECTION_SECONDS: Final = 5.0
CHECK_AFTER_IDLE_SECONDS: Final = 20.0
# The pool waits longer after each failure; given up early, it starts anew with the next request.
RECONNECT_SECONDS: Final = 4.0
# A database that is away for an hour must not become a rush on whoever keeps its address.
ASK_ANEW_SECONDS: Final = 10.0

_BECOME: Final = "select set_config('role', %(role)s, true), set_config('request.jwt.claims', %(claims)s, true)"
_REQUIRE_ACTIVE: Final = "select private.require_active_caller()"

# Connection lost, full, shutting down, out of patience: the same request may succeed shortly.
_UNAVAILABLE_CLASSES: Final = ("08", "53", "57", "55P03")
# The whole unit was rolled back, so it may simply run again.
_REPEATABLE: Final = (pg.DeadlockDetected, pg.SerializationFailure)
_REPEATS: Final = 3

# A unit that was refused raises its reason; the driver says it once more, in a line of its own that is no JSON.
logging.getLogger("psycopg").addFilter(lambda record: not record.getMessage().startswith("error ignored terminating"))


class Database:
    """A pool of connections (one on Lambda) that runs units of work for an actor.

    It opens at its first use, in the event loop of that use, and is closed by `close`. One that belongs to a `call`
    logs what it does as that call's activity. A `url` that is a secret is asked for before each connection, and past
    what is kept of it after a connection that was not made: so a rotated password is taken up at once.
    """

    def __init__(self, url: str | Secret, *, pool_size: int = 1) -> None:
        self._url = url
        self._is_connecting = False
        self._asked_anew = -ASK_ANEW_SECONDS
        self._last_used: WeakKeyDictionary[psycopg.AsyncConnection[DictRow], float] = WeakKeyDictionary()
        self.call: Call | None = None
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[DictRow]] = AsyncConnectionPool(
            self._address,
            min_size=1,
            max_size=pool_size,
            open=False,
            timeout=WAIT_FOR_CONNECTION_SECONDS,
            reconnect_timeout=RECONNECT_SECONDS,
            check=self._check,
            configure=self._configure,
            kwargs={"autocommit": True, "prepare_threshold": None, "row_factory": dict_row},
        )

    async def close(self) -> None:
        """Gives all connections back."""
        await self._pool.close()

    def pool(self) -> dict[str, int]:
        """This process's connections: how many there may be, are, lie idle, and how many calls wait for one."""
        stats = self._pool.get_stats()
        return {
            "most": self._pool.max_size,
            "open": stats.get("pool_size", 0),
            "idle": stats.get("pool_available", 0),
            "waiting": stats.get("requests_waiting", 0),
        }

    def during(self, call: Call | None) -> Self:
        """The same pool, for what is done within a call."""
        database = copy.copy(self)
        database.call = call
        return database

    async def run(self, actor: Actor, *statements: Statement, require_active: bool = True) -> list[Rows]:
        """Runs the statements as the actor in one transaction; the rows of each, in order.

        A disabled or deleted caller is refused first (`forbidden:account`); `require_active=False` is for a
        statement that does that itself. Raises the domain errors of our SQL functions, and `unavailable:database`
        when the database cannot take the work now; then nothing of the unit has happened.
        """
        for repeat in range(_REPEATS):
            try:
                with _domain_errors():
                    return await self._run_once(actor, statements, require_active)
            except _REPEATABLE:
                if repeat == _REPEATS - 1:
                    raise ThreadkeepError("unavailable:database", retry_after=RETRY_AFTER_SECONDS) from None
        raise AssertionError("unreachable")

    async def rows(self, actor: Actor, sql: LiteralString, parameters: Parameters | None = None) -> Rows:
        """Runs one statement as the actor; its rows."""
        return (await self.run(actor, (sql, parameters or {})))[0]

    async def row(self, actor: Actor, sql: LiteralString, parameters: Parameters | None = None) -> DictRow | None:
        """Runs one statement as the actor; its first row, if there is one."""
        rows = await self.rows(actor, sql, parameters)
        return rows[0] if rows else None

    async def _run_once(self, actor: Actor, statements: tuple[Statement, ...], require_active: bool) -> list[Rows]:
        async with self._connection() as connection:
            connection._pipeline = _Unit(connection)
            async with connection.pipeline():
                await connection.execute(_BECOME, {"role": actor.role, "claims": actor.claims})
                if require_active and actor.role == "authenticated":
                    await connection.execute(_REQUIRE_ACTIVE)
                cursors = [await connection.execute(sql, parameters) for sql, parameters in statements]
            return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
        if self._pool.closed:
            # Starts to connect, without waiting for it.
            await self._pool.open()
        async with self._pool.connection() as connection:
            yield connection
            self._last_used[connection] = time.monotonic()

    async def _address(self) -> str:
        if isinstance(self._url, str):
            return self._url
        anew = self._is_connecting and time.monotonic() - self._asked_anew >= ASK_ANEW_SECONDS
        if anew:
            self._asked_anew = time.monotonic()
        self._is_connecting = True
        return await asyncio.to_thread(self._url.get_secret_value, anew=anew)

    async def _configure(self, connection: psycopg.AsyncConnection[DictRow]) -> None:
        self._is_connecting = False
        connection.adapters.register_loader("timestamptz", _UtcLoader)

    async def _check(self, connection: psycopg.AsyncConnection[DictRow]) -> None:
        """Asks a connection that lay idle whether it still lives; one used a moment ago is believed."""
        if time.monotonic() - self._last_used.get(connection, 0.0) > CHECK_AFTER_IDLE_SECONDS:
            await AsyncConnectionPool.check_connection(connection)


class _Unit(psycopg.AsyncPipeline):
    """A pipeline whose end is a Sync and nothing after it.

    The driver sends a Flush as well. When that reaches a transaction pooler after it has answered the Sync, it takes
    it for the beginning of another transaction, and holds a server's connection for as long as this client idles.
    """

    def _fetch_gen(self, *, flush: bool) -> PQGen[None]:
        if flush and self.result_queue:
            yield from send(self.pgconn)
        yield from super()._fetch_gen(flush=False)


class _UtcLoader(Loader):
    """Times are UTC here, whatever zone the server is configured for."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        in_server_zone = psycopg.adapters.get_loader(oid, self.format)
        assert in_server_zone is not None
        self._in_server_zone = in_server_zone(oid, context)

    def load(self, data: Buffer) -> datetime:
        moment: datetime = self._in_server_zone.load(data)
        return moment.astimezone(UTC)


class _domain_errors:  # noqa: N801 - reads as a statement
    """Turns what the driver raises into errors of the domain, where it is one."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("TK"):
            raise domain_error(error) from None
        if isinstance(error, _REPEATABLE):
            return
        if _is_unavailable(error):
            raise ThreadkeepError("unavailable:database", retry_after=RETRY_AFTER_SECONDS) from error


def _is_unavailable(error: BaseException | None) -> bool:
    if isinstance(error, PoolTimeout | psycopg.InterfaceError):
        return True
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return True
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_UNAVAILABLE_CLASSES)


def domain_error(error: psycopg.Error) -> ThreadkeepError:
    """The error that one of our SQL functions raised: SQLSTATE TKnnn, with a JSON object in DETAIL."""
    extra: dict[str, Any] = json.loads(error.diag.message_detail or "{}")
    code = extra.pop("code")
    detail = extra.pop("detail", None)
    retry_after = extra.pop("retryAfter", None)
    fields = [FieldError(**field) for field in extra.pop("fields", ())]
    if code not in SENTENCES and detail is None:
        raise AssertionError(f"no sentence for {code}") from error
    return ThreadkeepError(code, detail, fields=fields, retry_after=retry_after, extra=extra)
