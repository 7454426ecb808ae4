"""One turn: the model runs in a task of its own, its events go to followers at once and to the database in chunks.

A client that leaves stops nothing. Whatever ends the turn, its Finish is one transaction, and nobody is told that
an answer is finished before that transaction has committed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast
from uuid import UUID

from pydantic_ai import CancellationToken, UsageLimits
from pydantic_ai.exceptions import RunCancelled, RunTimedOut
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResultEvent
from pydantic_ai.settings import ModelSettings

from threadkeep import turns
from threadkeep.configuration import AppSettings
from threadkeep.database import Database
from threadkeep.errors import SENTENCES, ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.log import logger
from threadkeep_agents import history
from threadkeep_agents.failures import as_domain_error
from threadkeep_agents.metering import OFFLINE_MODEL, Ledger, MeteredModel, PricedModel, is_whole
from threadkeep_agents.offline import offline_model
from threadkeep_agents.providers import Providers, closing_responses
from threadkeep_agents.roster import Roster
from threadkeep_agents.titles import title_of
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.ui_stream import (
    DONE,
    KEEP_ALIVE,
    ChunkStream,
    Parts,
    WithoutEmptyReasoning,
    event_of,
    finish_events,
    start_event,
)

COALESCE_SECONDS: Final = 0.1
COALESCE_BYTES: Final = 16 * 1024
RENEW_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 10.0
PACE_SECONDS: Final = 0.01
# A stream that is longer is still delivered live and stored whole in the end; only followers elsewhere see less.
MAX_KEPT_BYTES: Final = 4 * 1024 * 1024
FINISH_RETRY_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

TITLE_GRACE_SECONDS: Final = 3.0
UNSTORED: Final = "unavailable:answer"

CHAT_AGENT: Final = "chat_model_agent"
TITLE_AGENT: Final = "title"


@dataclass(frozen=True, slots=True)
class Parties:
    """What every turn of a process works with."""

    database: Database
    providers: Providers
    roster: Roster


class Turn:
    """A running turn. `start` it, `follow` it as often as wanted, `stop` it, `wait` for its end."""

    def __init__(
        self,
        parties: Parties,
        principal: Principal,
        run: turns.Run,
        *,
        thinking: bool | None,
        max_seconds: float | None,
    ) -> None:
        self._parties = parties
        self._principal = principal
        self._run = run
        self._thinking = thinking
        self._max_seconds = max_seconds
        self._ledger = Ledger(run.answer)
        self._priced = PricedModel.of_row(run.model) if run.model else OFFLINE_MODEL
        self._cancellation = CancellationToken()
        self._stopped_by: Literal["person", "gone", "shutdown"] | None = None
        self._started_at = datetime.now(UTC)
        self._started = time.perf_counter()
        self._parts = Parts()
        self._lines: list[str] = []
        self._has_ended = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._kept_lines = 0
        self._kept_bytes = 0
        self._unkept_bytes = 0
        self._chunk_seq = 0
        self._has_more_to_keep = asyncio.Event()
        self._must_keep_now = asyncio.Event()
        self._is_finishing = False
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
        self._stopped_by = self._stopped_by or by
        self._cancellation.cancel()

    async def wait(self) -> turns.Replay:
        """The answer as it was stored; raises only if it could not be stored."""
        assert self._task is not None
        return await asyncio.shield(self._task)

    async def follow(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events from its start, live, with a comment line in every 10 s of silence."""
        position = 0
        has_spoken = False
        while True:
            if position < len(self._lines):
                batch = self._lines[position:]
                position = len(self._lines)
                yield "".join([f"data: {line}\n\n" for line in batch]).encode()
                # The first words go out at once; from then on a packet holds what 10 ms bring.
                has_spoken = has_spoken or any("-delta" in line for line in batch)
                if has_spoken and not self._has_ended.is_set():
                    await _is_set_within(self._has_ended, PACE_SECONDS)
            elif self._has_ended.is_set():
                break
            elif not await self._more_within(SILENCE_SECONDS):
                yield KEEP_ALIVE
        yield DONE

    async def _go(self) -> turns.Replay:
        with closing_responses() as close_responses:
            try:
                return await self._to_the_end()
            finally:
                await close_responses()

    async def _to_the_end(self) -> turns.Replay:
        keeper = asyncio.create_task(self._keep())
        titling = self._start_title()
        chunks = ChunkStream(
            start_event(str(self._run.answer), {"sessionId": str(self._run.session), "model": self._priced.model_id})
        )
        shown = WithoutEmptyReasoning()
        result: AgentRunResultEvent[str] | None = None

        async def events() -> AsyncIterator[Any]:
            nonlocal result
            async with self._agent_events() as stream:
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
        self._is_finishing = True
        self._has_more_to_keep.set()
        self._must_keep_now.set()
        await keeper
        ending, last_lines = self._ending(result, failure, chunks.finish_reason, title)
        answer = await self._finish(ending)
        self._lines += last_lines if self._error is None or self._error.code != UNSTORED else [_unstored_line()]
        self._has_ended.set()
        self._notify()
        return answer

    def _agent_events(self) -> Any:
        roster = self._parties.roster
        settings = roster.app_settings
        agent = roster.chat_agent(self._run.configuration_of)  # type: ignore[arg-type]
        earlier, prompt = history.to_model(self._run.history, self._priced.provider)
        return agent.run_stream_events(
            prompt,
            message_history=earlier,
            model=MeteredModel(self._model(), self._ledger, CHAT_AGENT, self._priced),
            model_settings=self._model_settings(settings),
            deps=TurnContext(
                principal=self._principal,
                session=self._run.session,
                answer=self._run.answer,
                correlation_id=self._run.correlation_id,
                ledger=self._ledger,
            ),
            usage_limits=UsageLimits(
                request_limit=settings.turn.max_requests,
                tool_calls_limit=settings.turn.max_tool_calls,
                output_tokens_limit=settings.turn.max_output_tokens,
            ),
            cancellation_token=self._cancellation,
            timeout=min(settings.turn.max_seconds, self._max_seconds or settings.turn.max_seconds),
        )

    def _model(self) -> Model[Any]:
        if self._run.model is None:
            return offline_model()
        return self._parties.providers.model(self._priced.provider, self._priced.model_id)  # type: ignore[arg-type]

    def _model_settings(self, settings: AppSettings) -> ModelSettings:
        bounds = [settings.turn.max_output_tokens]
        if self._priced.metadata.max_output_tokens:
            bounds.append(self._priced.metadata.max_output_tokens)
        model_settings = ModelSettings(max_tokens=min(bounds))
        if self._thinking is not None and self._priced.thinking_enabled:
            model_settings["thinking"] = self._thinking
            if self._thinking:
                model_settings |= _show_reasoning(self._priced.provider)
        return model_settings

    def _start_title(self) -> asyncio.Task[str | None] | None:
        """A first message gets a better title while it is being answered; offline, its first words stay."""
        row = self._run.title_model
        if row is None or len(self._run.history) > 1 or not self._parties.roster.app_settings.titles.enabled:
            return None
        priced = PricedModel.of_row(row)
        model = self._parties.providers.model(priced.provider, priced.model_id)  # type: ignore[arg-type]
        text = " ".join(part["text"] for part in self._run.history[-1]["parts"] if part["type"] == "text")
        if not text.strip():
            return None
        return asyncio.create_task(title_of(MeteredModel(model, self._ledger, TITLE_AGENT, priced), text))

    def _emit(self, event: dict[str, Any]) -> None:
        self._parts.add(event)
        line = _line(event)
        self._lines.append(line)
        self._unkept_bytes += len(line)
        self._notify()
        self._has_more_to_keep.set()
        if self._unkept_bytes >= COALESCE_BYTES:
            self._must_keep_now.set()

    async def _more_within(self, seconds: float) -> bool:
        more: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(more)
        try:
            async with asyncio.timeout(seconds):
                await more
        except TimeoutError:
            return False
        return True

    def _notify(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def _keep(self) -> None:
        """Writes what is new every 100 ms, renews the lease every 5 s, and reads how the stream stands."""
        while not self._is_finishing:
            if await _is_set_within(self._has_more_to_keep, RENEW_SECONDS):
                await _is_set_within(self._must_keep_now, COALESCE_SECONDS)
            if not self._is_finishing:
                await self._write_chunk()

    async def _write_chunk(self) -> None:
        self._has_more_to_keep.clear()
        self._must_keep_now.clear()
        self._unkept_bytes = 0
        lines = self._lines[self._kept_lines :]
        payload = "\n".join(lines) if lines and self._kept_bytes < MAX_KEPT_BYTES else None
        usage = self._ledger.rows() if self._ledger.is_changed else None
        try:
            verdict = await turns.write_chunk(self._parties.database, self._run.stream, self._chunk_seq, payload, usage)
        except Exception as error:  # noqa: BLE001 - a chunk that cannot be kept must not end the turn
            # It stays to be written; if the lease runs out meanwhile, Finish still has the last word.
            self._ledger.is_changed = self._ledger.is_changed or usage is not None
            logger.warning("chunk not written", exc_info=error, extra={"stream": str(self._run.stream)})
            return
        self._kept_lines += len(lines)
        self._kept_bytes += len(payload or "")
        self._chunk_seq += 1 if payload is not None else 0
        if verdict == "stop":
            self.stop("person")
        elif verdict == "gone":
            self.stop("gone")

    def _ending(
        self,
        result: AgentRunResultEvent[str] | None,
        failure: BaseException | None,
        finish_reason: str | None,
        title: str | None,
    ) -> tuple[turns.Ending, list[str]]:
        """How the turn ended, and its last events, which nobody sees before that is stored."""
        is_stopped = isinstance(failure, RunCancelled) and not isinstance(failure, RunTimedOut)
        status: turns.Status = "complete"
        if is_stopped:
            status, finish_reason = "interrupted", "stopped"
        elif failure is not None or result is None:
            self._error = as_domain_error(failure or RuntimeError("the run had no result"))
            status, finish_reason = "failed", "error"
            if self._error.status == 500:
                logger.error("turn failed", exc_info=failure, extra={"correlation_id": str(self._run.correlation_id)})
        self._ledger.close()
        usage = self._ledger.rows()
        metadata: dict[str, Any] = {
            "sessionId": str(self._run.session),
            "model": self._priced.model_id,
            "provider": self._priced.provider,
            "finishReason": finish_reason or "stop",
            "usage": _usage_summary(usage),
        }
        if title:
            metadata["title"] = title
        if self._error:
            metadata["error"] = {"code": self._error.code, "detail": self._error.detail}
        last_events = finish_events(
            metadata, error_text=self._error.detail if self._error else None, is_aborted=is_stopped
        )
        last_lines = [_line(event) for event in last_events]
        unkept = self._lines[self._kept_lines :] if self._kept_bytes < MAX_KEPT_BYTES else []
        ending = turns.Ending(
            status=status,
            parts=self._parts.finished(),
            model_messages=history.to_store(result.result.new_messages()) if result else None,
            metadata=metadata,
            model=self._priced.model_id,
            usage=usage,
            activity=[self._activity(status, usage)],
            error=self._error_row(failure),
            title=title,
            chunk="\n".join(unkept + last_lines),
            chunk_seq=self._chunk_seq,
        )
        return ending, last_lines

    def _activity(self, status: turns.Status, usage: list[dict[str, Any]]) -> dict[str, Any]:
        own = [row for row in usage if row["agent_type"] == CHAT_AGENT]
        return {
            "agent_type": CHAT_AGENT,
            "operation_type": "streaming",
            "operation_category": "generation",
            "operation_metadata": {"requests": len(own), "status": status},
            "resource_id": str(self._run.session),
            "resource_type": "chat",
            "duration_ms": round((time.perf_counter() - self._started) * 1000),
            "start_time": self._started_at.isoformat(),
            "end_time": datetime.now(UTC).isoformat(),
            "model_id": self._priced.model_id,
            "provider": self._priced.provider,
            "thinking_mode": bool(self._thinking),
            "input_tokens": sum(row["input_tokens"] for row in own),
            "output_tokens": sum(row["output_tokens"] for row in own),
            "reasoning_tokens": sum(row["reasoning_tokens"] for row in own),
            "input_cost": str(sum(float(row["input_cost"]) for row in own)),
            "output_cost": str(sum(float(row["output_cost"]) for row in own)),
            "success": status == "complete",
            "error_type": self._error.code if self._error else None,
            "error_message": self._error.detail if self._error else None,
        }

    def _error_row(self, failure: BaseException | None) -> dict[str, Any] | None:
        if self._error is None:
            return None
        return {
            "error_type": "app",
            "error_category": self._error.code,
            "error_message": self._error.detail,
            "error_details": {
                "exception": type(failure).__qualname__,
                "provider": self._priced.provider,
                "model": self._priced.model_id,
                "providerStatus": getattr(failure, "status_code", None),
            },
            "request_path": "/api/chat",
            "request_method": "POST",
            "session_id": str(self._run.session),
        }

    async def _finish(self, ending: turns.Ending) -> turns.Replay:
        assert self._principal.user_id is not None
        for delay in (*FINISH_RETRY_SECONDS, None):
            try:
                verdict = await turns.finish(self._parties.database, self._principal.user_id, self._run, ending)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who follow must get an end
                is_passing = isinstance(error, ThreadkeepError) and error.code == "unavailable:database"
                if delay is None or not is_passing:
                    return await self._unstored(ending, error)
                await asyncio.sleep(delay)
            else:
                if verdict != "stored":
                    logger.info("answer not stored", extra={"verdict": verdict, "answer": str(self._run.answer)})
                break
        return turns.Replay(self._run.answer, ending.status, ending.parts, ending.metadata)

    async def _unstored(self, ending: turns.Ending, error: Exception) -> turns.Replay:
        """Nobody is told that it is finished; what was said is kept as chunks, of which a recovery makes a message."""
        logger.error(
            "finish failed",
            exc_info=error,
            extra={"answer": str(self._run.answer), "correlation_id": str(self._run.correlation_id)},
        )
        self._ledger.is_changed = True
        await self._write_chunk()
        self._error = ThreadkeepError(UNSTORED)
        return turns.Replay(self._run.answer, "failed", ending.parts, ending.metadata)


_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def _unstored_line() -> str:
    return _line({"type": "error", "errorText": SENTENCES[UNSTORED]})


async def _title_in_time(titling: asyncio.Task[str | None], *, is_wanted: bool) -> str | None:
    """The title, for which a finished answer waits a little and a failed or stopped one not at all."""
    try:
        async with asyncio.timeout(TITLE_GRACE_SECONDS if is_wanted else 0):
            return await titling
    except TimeoutError:
        return None


def _show_reasoning(provider: str) -> ModelSettings:
    """What makes a provider show its reasoning besides doing it."""
    shown: dict[str, dict[str, Any]] = {
        "openai": {"openai_reasoning_summary": "auto"},
        "google": {"google_thinking_config": {"include_thoughts": True}},
        "anthropic": {"anthropic_thinking": {"type": "adaptive", "display": "summarized"}},
    }
    return cast("ModelSettings", shown.get(provider, {}))


def _usage_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    total = {
        "inputTokens": sum(row["input_tokens"] for row in rows),
        "outputTokens": sum(row["output_tokens"] for row in rows),
        "cachedInputTokens": sum(row["cached_input_tokens"] for row in rows),
        "reasoningTokens": sum(row["reasoning_tokens"] for row in rows),
        "cost": round(sum(float(row["input_cost"]) + float(row["output_cost"]) for row in rows), 12),
    }
    if any(row["source"] == "estimated" for row in rows):
        total["isEstimated"] = True
    return total
