"""One turn: the model runs in a task of its own, its events go to followers at once and to the database in chunks.

A client that leaves stops nothing. Whatever ends the turn, its Finish is one transaction, and nobody is told that
an answer is finished before that transaction has committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, Literal
from uuid import UUID

from pydantic_ai import CancellationToken, UsageLimits
from pydantic_ai.exceptions import RunCancelled, RunTimedOut
from pydantic_ai.run import AgentRunResultEvent
from pydantic_ai.toolsets import AbstractToolset

from threadkeep import chat_input, sessions, turns
from threadkeep.activity import Call
from threadkeep.configuration import ChatModelAgent, Provider
from threadkeep.database import Database
from threadkeep.errors import SENTENCES, ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.log import logger
from threadkeep.settings import Settings
from threadkeep.storable import storable
from threadkeep.storage import Storage
from threadkeep_agents import attachments, history
from threadkeep_agents.activity import CHAT_AGENT
from threadkeep_agents.broadcast import Broadcast, as_line
from threadkeep_agents.endings import Outcome
from threadkeep_agents.failures import as_domain_error
from threadkeep_agents.history import Conversation
from threadkeep_agents.keeper import Keeper
from threadkeep_agents.ledger import Ledger
from threadkeep_agents.metering import is_whole
from threadkeep_agents.model_choice import ModelChoice
from threadkeep_agents.own_servers import OwnServers
from threadkeep_agents.providers import Providers, closing_responses
from threadkeep_agents.roster import Roster
from threadkeep_agents.titles import title_of
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.tracing import Tracing
from threadkeep_agents.ui_stream import ChunkStream, Parts, WithoutEmptyReasoning, event_of, finish_events, start_event

FINISH_RETRY_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
TITLE_GRACE_SECONDS: Final = 3.0
UNSTORED: Final = "unavailable:answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """What every turn of a process works with."""

    settings: Settings
    database: Database
    providers: Providers
    roster: Roster
    tracing: Tracing
    servers: OwnServers
    storage: Storage | None


class Turn:
    """A running turn. `start` it, `follow` it as often as wanted, `stop` it, `wait` for its end."""

    def __init__(
        self,
        parties: Parties,
        principal: Principal,
        run: turns.Run,
        *,
        call: Call,
        thinking: bool | None,
        max_seconds: float | None,
        guest_address: str | None,
        github_token: str | None,
    ) -> None:
        self._parties = parties
        self._principal = principal
        self._run = run
        self._call = call
        self._thinking = thinking
        self._max_seconds = max_seconds
        self._guest_address = guest_address
        self._github_token = github_token
        self._ledger = self._new_ledger()
        self._models = ModelChoice(run, parties.providers, self._ledger, parties.roster.app_settings, thinking=thinking)
        self._context = self._turn_context()
        self._cancellation = CancellationToken()
        self._started_at = datetime.now(UTC)
        self._parts = Parts()
        self._broadcast = Broadcast()
        self._keeper = Keeper(parties.database, run.stream, self._broadcast.lines, self._ledger, self.stop)
        self._task: asyncio.Task[turns.Replay] | None = None
        self._error: ThreadkeepError | None = None

    @property
    def session(self) -> UUID:
        return self._run.session

    @property
    def stream(self) -> UUID:
        return self._run.stream

    @property
    def error(self) -> ThreadkeepError | None:
        """What went wrong, once the turn has ended; None if nothing did."""
        return self._error

    def start(self, when_done: Callable[[Turn], None]) -> None:
        """Lets the turn run by itself."""
        self._task = asyncio.create_task(self._go(), name=f"turn {self._run.answer}")
        self._task.add_done_callback(lambda _: when_done(self))

    def stop(self, by: Literal["person", "gone", "shutdown"] = "person") -> None:
        """Ends the model's work; what it has said so far is kept."""
        logger.info("turn stopped", extra={"by": by, "answer": str(self._run.answer)})
        self._cancellation.cancel()

    async def wait(self) -> turns.Replay:
        """The answer as it was stored; raises only if it could not be stored."""
        assert self._task is not None
        return await asyncio.shield(self._task)

    def follow(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events from its start, then live."""
        return self._broadcast.follow()

    async def _go(self) -> turns.Replay:
        tracing = self._parties.tracing
        try:
            with closing_responses() as close_responses, tracing.turn(self._run) as span:
                try:
                    answer = await self._to_the_end()
                finally:
                    await close_responses()
                if span is not None:
                    span.set_attribute("threadkeep.status", answer.status)
                return answer
        finally:
            await tracing.after_turn()

    async def _to_the_end(self) -> turns.Replay:
        keeping = asyncio.create_task(self._keeper.run())
        titling = self._start_title()
        conversation: Conversation | Exception
        try:
            await self._read_attachments()
            conversation = self._read_history()
        except Exception as error:  # noqa: BLE001 - whatever it is, the turn must reach its Finish
            conversation = error
        chunks = ChunkStream(start_event(str(self._run.answer), self._first_metadata()), self._context.late_results)
        shown = WithoutEmptyReasoning()
        result: AgentRunResultEvent[str] | None = None

        async def events() -> AsyncIterator[Any]:
            nonlocal result
            if isinstance(conversation, Exception):
                raise conversation
            servers = await self._parties.servers.tools(self._context)
            async with self._agent_events(conversation, servers) as stream:
                async for event in stream:
                    if isinstance(event, AgentRunResultEvent):
                        result = event
                    yield event

        try:
            async for chunk in chunks.transform_stream(events()):
                if (event := event_of(chunk)) is not None:
                    for passed in shown.pass_on(event):
                        self._emit(passed)
            failure: BaseException | None = chunks.failure
            if result is not None and not is_whole(result.result.response):
                failure = ThreadkeepError("provider:chat")
        except Exception as error:  # noqa: BLE001 - whatever it is, the turn must reach its Finish
            failure = error
        title = await _title_in_time(titling, is_wanted=failure is None) if titling else None
        if title is None and self._run.title == sessions.DEFAULT_TITLE:
            title = self._first_words
        self._keeper.finish()
        await keeping
        outcome = self._outcome(result, failure, chunks.finish_reason, title)
        last_lines = [as_line(event) for event in _last_events(outcome)]
        answer = await self._finish(outcome, result, last_lines)
        self._broadcast.end(last_lines if answer.is_stored else [_unstored_line()])
        return answer.replay

    async def _read_attachments(self) -> None:
        reader = attachments.Reader(self._models.priced, self._chat_agent())
        database, storage = self._parties.database, self._parties.storage
        resolved = await self._context.as_user(
            lambda user: attachments.resolve(self._run.history, reader, database, storage, user)
        )
        self._run = replace(self._run, history=resolved)

    def _new_ledger(self) -> Ledger:
        bound = self._parties.roster.app_settings.turn.max_cost_usd
        left = self._run.cost_bound
        if left is None or left >= bound:
            return Ledger(self._run.answer, bound)
        return Ledger(self._run.answer, left, is_of_budget=True)

    def _read_history(self) -> Conversation:
        output = self._models.settings()["max_tokens"]
        prompt = self._chat_agent().system_prompt
        return self._models.window.read(self._run.history, self._models.priced, prompt, output)

    def _chat_agent(self) -> ChatModelAgent:
        """How the agent that answers is configured."""
        provider: Provider = self._run.configuration_of  # type: ignore[assignment]
        shape = self._parties.roster.configuration(CHAT_AGENT, provider)
        assert isinstance(shape, ChatModelAgent)
        return shape

    def _first_metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {"sessionId": str(self._run.session), "model": self._models.priced.model_id}
        if omitted := self._models.window.omitted_messages:
            metadata["context"] = {"omittedMessages": omitted}
        return metadata

    def _agent_events(self, conversation: Conversation, servers: Sequence[AbstractToolset[TurnContext]]) -> Any:
        provider: Provider = self._run.configuration_of  # type: ignore[assignment]
        bounds = self._parties.roster.app_settings.turn
        agent = self._parties.roster.chat_agent(provider)
        return agent.run_stream_events(
            conversation.prompt,
            message_history=conversation.messages,
            model=self._models.for_agent(CHAT_AGENT).model,
            model_settings=self._models.settings(),
            deps=self._context,
            capabilities=self._context.capabilities,
            toolsets=servers,
            usage_limits=self._context.bounds,
            cancellation_token=self._cancellation,
            timeout=min(bounds.max_seconds, self._max_seconds or bounds.max_seconds),
        )

    def _turn_context(self) -> TurnContext:
        roster = self._parties.roster
        bounds = roster.app_settings.turn
        return TurnContext(
            principal=self._principal,
            session=self._run.session,
            answer=self._run.answer,
            correlation_id=self._run.correlation_id,
            ledger=self._ledger,
            database=self._parties.database.during(self._call),
            models=self._models,
            configured=roster.configuration,
            own_tools=roster.own_tools(),
            provider=self._run.configuration_of,  # type: ignore[arg-type]
            guest_address=self._guest_address,
            settings=self._parties.settings,
            github_token=self._github_token,
            capabilities=self._parties.tracing.capabilities(),
            exhausted=self._run.exhausted,
            bounds=UsageLimits(
                request_limit=bounds.max_requests,
                tool_calls_limit=bounds.max_tool_calls,
                output_tokens_limit=bounds.max_output_tokens,
            ),
        )

    def _start_title(self) -> asyncio.Task[str | None] | None:
        """A first message gets a better title while it is being answered; a title that a person gave stays."""
        is_untitled = self._run.title in (sessions.DEFAULT_TITLE, self._first_words)
        text = " ".join(self._first_texts)
        if not (is_untitled and text.strip() and self._parties.roster.app_settings.titles.enabled):
            return None
        return None if self._models.is_offline else asyncio.create_task(self._title(text))

    async def _title(self, text: str) -> str | None:
        try:
            model = self._models.for_title()
            return await title_of(model, text, self._parties.tracing.instrumentation) if model else None
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer goes on without a title
            logger.error("title failed", exc_info=error, extra={"correlation_id": str(self._run.correlation_id)})
            return None

    @property
    def _first_words(self) -> str | None:
        """What a session is called after its first message, until something better is known; None after a later one."""
        return chat_input.first_words(self._first_texts) if self._first_texts else None

    @cached_property
    def _first_texts(self) -> list[str]:
        """The texts of a first message; none of a later one."""
        first, *later = self._run.history
        return [] if later or self._run.omitted else [part["text"] for part in first["parts"] if part["type"] == "text"]

    def _emit(self, said: dict[str, Any]) -> None:
        event = storable(said)
        self._parts.add(event)
        line = as_line(event)
        self._broadcast.say(line)
        self._keeper.notice(line)

    def _outcome(
        self,
        result: AgentRunResultEvent[str] | None,
        failure: BaseException | None,
        finish_reason: str | None,
        title: str | None,
    ) -> Outcome:
        status: turns.Status = "complete"
        if isinstance(failure, RunCancelled) and not isinstance(failure, RunTimedOut):
            status, finish_reason = "interrupted", "stopped"
        elif failure is not None or result is None:
            self._error = as_domain_error(failure or RuntimeError("the run had no result"))
            status, finish_reason = "failed", "error"
            if self._error.code == "internal:api":
                logger.error("turn failed", exc_info=failure, extra={"correlation_id": str(self._run.correlation_id)})
        self._ledger.close()
        return Outcome(
            run=self._run,
            model=self._models.answered,
            chosen=self._models.priced,
            omitted_messages=self._models.window.omitted_messages,
            status=status,
            finish_reason=finish_reason or "stop",
            usage=self._ledger.rows(),
            started_at=self._started_at,
            thinking=bool(self._thinking),
            title=title,
            error=self._error,
            failure=failure,
        )

    async def _finish(
        self, outcome: Outcome, result: AgentRunResultEvent[str] | None, last_lines: list[str]
    ) -> _Finished:
        """Stores the turn's end, and is patient with a database that is away for a moment."""
        assert self._principal.user_id is not None
        ending = turns.Ending(
            status=outcome.status,
            parts=self._parts.finished(),
            model_messages=_kept(result) if result else None,
            metadata=outcome.metadata(),
            model=outcome.model.model_id,
            usage=outcome.usage,
            activity=storable([outcome.activity(), *self._context.activity]),
            error=outcome.error_row(),
            title=outcome.title,
            chunk="\n".join(self._keeper.unkept() + last_lines),
            chunk_seq=self._keeper.chunk_seq,
        )
        stored = turns.Replay(self._run.answer, ending.status, ending.parts, ending.metadata)
        for delay in (*FINISH_RETRY_SECONDS, None):
            try:
                verdict = await turns.finish(self._parties.database, self._principal.user_id, self._run, ending)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who follow must get an end
                is_passing = isinstance(error, ThreadkeepError) and error.code == "unavailable:database"
                if delay is None or not is_passing:
                    await self._leave_to_recovery(error)
                    return _Finished(replace(stored, status="failed"), is_stored=False)
                await asyncio.sleep(delay)
            else:
                if verdict != "stored":
                    logger.info("answer not stored", extra={"verdict": verdict, "answer": str(self._run.answer)})
                break
        return _Finished(stored, is_stored=True)

    async def _leave_to_recovery(self, error: Exception) -> None:
        """Nobody is told that it is finished; what was said is kept as chunks, of which a recovery makes a message."""
        logger.error(
            "finish failed",
            exc_info=error,
            extra={"answer": str(self._run.answer), "correlation_id": str(self._run.correlation_id)},
        )
        self._ledger.is_changed = True
        await self._keeper.write()
        self._error = ThreadkeepError(UNSTORED)


@dataclass(frozen=True, slots=True)
class _Finished:
    replay: turns.Replay
    is_stored: bool


def _kept(result: AgentRunResultEvent[str]) -> list[dict[str, Any]] | None:
    """The lossless form of an answer; without it the session goes on with the answer's text."""
    try:
        return history.to_store(result.result.new_messages())
    except ValueError as error:
        logger.error("an answer's messages cannot be stored", exc_info=error)
        return None


def _last_events(outcome: Outcome) -> list[dict[str, Any]]:
    return finish_events(
        outcome.metadata(),
        error_text=outcome.error.detail if outcome.error else None,
        is_aborted=outcome.status == "interrupted",
    )


def _unstored_line() -> str:
    return as_line({"type": "error", "errorText": SENTENCES[UNSTORED]})


async def _title_in_time(titling: asyncio.Task[str | None], *, is_wanted: bool) -> str | None:
    """The title, for which a finished answer waits a little and a failed or stopped one not at all."""
    try:
        async with asyncio.timeout(TITLE_GRACE_SECONDS if is_wanted else 0):
            return await titling
    except TimeoutError:
        return None
