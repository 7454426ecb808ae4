"""The administrator of the soak: reads the pages, and changes the configuration while it is in use."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from bench.soak.client import Client
from bench.soak.people import Person

AGENTS: Final = (
    "chat_model_agent",
    "provider_tools_agent",
    "document_agent",
    "python_agent",
    "mermaid_agent",
    "git_mcp_agent",
)
# The others have a prompt for each of their operations.
PROMPTED: Final = ("chat_model_agent", "provider_tools_agent", "git_mcp_agent")
CONFIG: Final = "/api/admin/config/{key}"
MODEL: Final = "/api/admin/models/{model}"
USER: Final = "/api/admin/users/{user}"
MANY: Final = 1_000_000
PAGES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("/api/admin/usage", {}),
    ("/api/admin/usage", {"groupBy": "user,model"}),
    ("/api/admin/usage", {"groupBy": "agent,provider"}),
    ("/api/admin/errors", {}),
    ("/api/admin/errors", {"resolved": "false", "severity": "error"}),
    ("/api/admin/activity", {}),
    ("/api/admin/activity", {"source": "agent"}),
    ("/api/admin/agents", {"groupBy": "agent,operation"}),
    ("/api/admin/users", {}),
    ("/api/admin/users", {"kind": "guest"}),
    ("/api/admin/users", {"q": "resident"}),
    ("/api/admin/purge", {}),
    ("/api/admin/health", {}),
    ("/api/admin/config", {}),
    ("/api/admin/models", {}),
)


class Administrator:
    """Somebody with an administrator's token, and with an account that he shuts out now and then."""

    def __init__(self, client: Client, token: str, victim: Person, seed: int) -> None:
        self._client = client
        self._token = token
        self._victim = victim
        self._chance = random.Random(f"administrator {seed}")

    async def prepare(self, provider: str) -> None:
        """Room for everybody, and budgets that nobody reaches, so that they are reserved in every turn."""
        room = {"perMinute": MANY, "perHour": MANY, "perDay": MANY}
        for agent in AGENTS:
            await self._change(f"{agent}_{provider}", {"rateLimit": room})
        settings = {
            "activeProvider": provider,
            "guests": {"perAddressPerHour": MANY, "totalPerHour": MANY},
            "budgets": {"perUserMonthlyUsd": 1000, "guestsMonthlyUsd": 10000},
        }
        await self._change("app_settings", settings)

    async def work(self, provider: str, ends: asyncio.Event, pause: float) -> None:
        while not ends.is_set():
            for route, params in PAGES:
                if ends.is_set():
                    return
                await self._ask("GET", route, params=params)
                await asyncio.sleep(pause)
            await self._changes_a_prompt(provider)
            await self._switches_logs()
            await self._adds_and_deletes_a_model(provider)
            await self._resolves_an_error()
            await self._shuts_somebody_out()
            if self._chance.random() < 0.3:
                await self._ask("POST", "/api/admin/purge", expect={202})

    async def purge_completely(self) -> dict[str, Any]:
        """Starts the purge and waits for its end; what it did."""
        await self._ask("POST", "/api/admin/purge", expect={202})
        async with asyncio.timeout(60):
            while True:
                last: dict[str, Any] = (await self._ask("GET", "/api/admin/purge")).json()
                if last["requestedAt"] is None:
                    return last
                await asyncio.sleep(0.5)

    async def _changes_a_prompt(self, provider: str) -> None:
        key = f"{self._chance.choice(PROMPTED)}_{provider}"
        read = await self._ask("GET", CONFIG, key=key)
        tag = {"if-match": read.headers["etag"]}
        prompt = {"systemPrompt": f"Be brief. This is version {self._chance.getrandbits(32)}."}
        await self._ask("PATCH", CONFIG, key=key, body=prompt, headers=tag)
        await self._ask("PATCH", CONFIG, key=key, body={"systemPrompt": "Be late."}, headers=tag, expect={412})
        history = (await self._ask("GET", f"{CONFIG}/history", key=key)).json()
        if len(history["items"]) > 2:
            entry = history["items"][1]["id"]
            await self._ask("POST", f"{CONFIG}/revert", key=key, body={"historyId": entry})

    async def _switches_logs(self) -> None:
        toggles = ["log_chat_events", "log_document_events", "log_ai_operations", "log_tool_invocations"]
        changes = {toggle: self._chance.random() < 0.5 for toggle in toggles}
        body = {"user_activity_logging_enabled": self._chance.random() < 0.5, "category_toggles": changes}
        await self._change("logging_settings", body)

    async def _adds_and_deletes_a_model(self, provider: str) -> None:
        model = f"soak-{self._chance.getrandbits(32)}"
        new = {"modelId": model, "provider": provider, "name": "Soak", "inputPrice": 1, "outputPrice": 2}
        await self._ask("POST", "/api/admin/models", body=new, expect={201})
        await self._ask("PATCH", MODEL, model=model, body={"inputPrice": 3})
        await self._ask("DELETE", MODEL, model=model, expect={204})

    async def _resolves_an_error(self) -> None:
        page = (await self._ask("GET", "/api/admin/errors", params={"resolved": "false"})).json()
        if page["items"]:
            error = self._chance.choice(page["items"])["id"]
            body = {"resolved": True, "notes": "Seen."}
            await self._ask("PATCH", "/api/admin/errors/{error}", error=error, body=body)

    async def _shuts_somebody_out(self) -> None:
        """In the middle of an answer, which ends soon; and lets him in again."""
        victim = self._victim
        user = (await victim.ask("GET", "/api/me"))["id"]
        body = {"id": victim.id(), "message": victim.message("[slow]")}

        async def shut_out() -> None:
            await self._ask("PATCH", USER, user=user, body={"disabled": True})

        async with self._client.stream(victim.token, "POST", "/api/chat", body=body) as response:
            await self._client.read(response, may_break=True, once_it_speaks=shut_out)
        await self._client.say(victim.token, {"message": victim.message()}, expect={403})
        await self._ask("PATCH", USER, user=user, body={"disabled": False})
        await victim.ask("DELETE", "/api/sessions", expect={204})

    async def _change(self, key: str, body: dict[str, Any]) -> None:
        await self._ask("PATCH", CONFIG, key=key, body=body)

    async def _ask(self, method: str, route: str, **more: Any) -> Any:
        return await self._client.ask(self._token, method, route, **more)
