"""What the chat function does: begins turns, lets others follow them wherever they run, and stops them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final
from uuid import UUID, uuid4

from threadkeep import files, turns
from threadkeep.activity import Call
from threadkeep.database import Database
from threadkeep.identity import Principal
from threadkeep.settings import Settings
from threadkeep.storage import storage_of
from threadkeep_agents.broadcast import SILENCE_SECONDS, as_sse
from threadkeep_agents.own_servers import OwnServers
from threadkeep_agents.providers import Providers, with_key
from threadkeep_agents.roster import Roster
from threadkeep_agents.tracing import Tracing
from threadkeep_agents.turn import Parties, Turn
from threadkeep_agents.ui_stream import DONE, KEEP_ALIVE, replay_events

POLL_SECONDS: Final = 0.15
STOP_SECONDS: Final = 2.0


class Conversations:
    """The turns of this process, and the way to those of others."""

    def __init__(self, settings: Settings, database: Database, *, providers: Providers | None = None) -> None:
        self._database = database
        self._with_key = with_key(settings)
        self._parties = Parties(
            settings=settings,
            database=database,
            providers=providers or Providers(settings),
            roster=Roster(),
            tracing=Tracing(settings),
            servers=OwnServers(settings),
            storage=storage_of(settings),
        )
        self._running: dict[UUID, Turn] = {}

    async def begin(
        self,
        principal: Principal,
        request: turns.TurnRequest,
        *,
        call: Call,
        guest_address: str | None,
        new_guest: bool,
        max_seconds: float | None = None,
        github_token: str | None = None,
    ) -> Turn | turns.Join | turns.Replay:
        """Begins a turn, which then runs by itself; or says that the message is being answered, or was.

        Raises what `turns.begin` raises.
        """
        if request.message is not None:
            await files.check_said(self._database, self._parties.storage, principal, request.message.files)
        begun = await turns.begin(
            self._database.during(call),
            principal,
            request,
            answer=uuid4(),
            stream=uuid4(),
            correlation_id=call.correlation_id,
            providers=list(self._with_key),
            configuration_version=self._parties.roster.version,
            guest_address=guest_address,
            new_guest=new_guest,
        )
        if not isinstance(begun, turns.Run):
            return begun
        self._parties.roster.take(begun.configuration)
        turn = Turn(
            self._parties,
            principal,
            begun,
            call=call,
            thinking=request.thinking,
            max_seconds=max_seconds,
            guest_address=guest_address,
            github_token=github_token,
        )
        self._running[turn.stream] = turn
        turn.start(when_done=self._forget)
        return turn

    async def running(self, principal: Principal, session: UUID, *, call: Call) -> turns.Join | None:
        """The session's running turn, if it is the caller's and there is one; None tells nothing about it."""
        return await turns.running_stream(self._database.during(call), principal, session)

    async def follow(self, principal: Principal, session: UUID, join: turns.Join) -> AsyncIterator[bytes]:
        """A running turn's answer from its start, then live: from memory if it runs here, else from its chunks."""
        turn = self._running.get(join.stream)
        stream = turn.follow() if turn else self._follow_chunks(principal, session, join)
        async for batch in stream:
            yield batch

    async def answer(self, principal: Principal, session: UUID, join: turns.Join) -> turns.Replay:
        """The whole answer of a running turn, once it has ended."""
        turn = self._running.get(join.stream)
        if turn is not None:
            return await turn.wait()
        async for _ in self._follow_chunks(principal, session, join):
            pass
        return await turns.stored_answer(self._database, principal, session, join.answer)

    async def stop(self, principal: Principal, session: UUID, *, call: Call) -> bool:
        """Ends the session's running turn for good, wherever it runs; False if nothing runs."""
        is_running = await turns.request_stop(self._database.during(call), principal, session)
        if is_running:
            here = [turn for turn in self._running.values() if turn.session == session]
            for turn in here:
                turn.stop("person")
            # The next message finds the session free; a turn that runs elsewhere is ended by that message's Begin.
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await asyncio.gather(*(turn.wait() for turn in here), return_exceptions=True)
        return is_running

    async def close(self) -> None:
        """Ends all turns of this process, each with its Finish, and waits for them."""
        running = list(self._running.values())
        for turn in running:
            turn.stop("shutdown")
        await asyncio.gather(*(turn.wait() for turn in running), return_exceptions=True)
        await self._parties.providers.close()
        await self._parties.tracing.close()

    def _forget(self, turn: Turn) -> None:
        self._running.pop(turn.stream, None)

    async def _follow_chunks(self, principal: Principal, session: UUID, join: turns.Join) -> AsyncIterator[bytes]:
        seq = -1
        spoken_at = time.monotonic()
        while True:
            chunks = await turns.chunks_after(self._database, principal, session, join.stream, seq)
            seq = chunks.seq
            if chunks.lines:
                spoken_at = time.monotonic()
                yield as_sse(chunks.lines)
            if chunks.is_over:
                break
            if time.monotonic() - spoken_at > SILENCE_SECONDS:
                spoken_at = time.monotonic()
                yield KEEP_ALIVE
            await asyncio.sleep(POLL_SECONDS)
        yield DONE


def replay(answer: turns.Replay) -> bytes:
    """A stored answer as a stream that is said at once."""
    lines = [turns.as_lines([event]) for event in replay_events(str(answer.answer), answer.parts, answer.metadata)]
    return as_sse(lines) + DONE
