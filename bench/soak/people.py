"""The people of the soak: who they are, and what they do in a conversation. All chance comes from one seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from bench.soak.client import Client, both, first_words

SESSIONS_KEPT: Final = 5
WORDS: Final = (
    "harbour",
    "lantern",
    "meadow",
    "orchard",
    "pebble",
    "quarry",
    "ribbon",
    "saddle",
    "thimble",
    "violet",
    "willow",
)

MESSAGES: Final = "/api/sessions/{session}/messages"
SESSION: Final = "/api/sessions/{session}"


@dataclass
class Person:
    """Somebody with a token: what is his, as far as he knows, and his own chance."""

    token: str
    client: Client
    chance: random.Random
    is_guest: bool = False
    sessions: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)

    async def ask(self, method: str, route: str, **more: Any) -> Any:
        """One request; the JSON that came back, if any did."""
        response = await self.client.ask(self.token, method, route, **more)
        return response.json() if "json" in response.headers.get("content-type", "") else response

    def id(self) -> str:
        """An id of a client's making: a UUID, or one as the AI SDK makes them."""
        number = self.chance.getrandbits(128)
        return str(UUID(int=number, version=4)) if self.chance.random() < 0.5 else f"{number:032x}"[:16]

    def words(self, number: int = 6) -> str:
        return " ".join(self.chance.choices(WORDS, k=number))

    async def some_session(self) -> str:
        """One of his sessions, or the id of one that is to be; older ones are deleted."""
        if len(self.sessions) >= SESSIONS_KEPT:
            await self.ask("DELETE", SESSION, session=self.sessions.pop(0), expect={204})
        if self.sessions and self.chance.random() < 0.6:
            return self.chance.choice(self.sessions)
        self.sessions.append(self.id())
        return self.sessions[-1]

    def message(self, mark: str = "", message_id: str | None = None) -> dict[str, Any]:
        text = f"{self.words()} {mark}".strip()
        return {"id": message_id or self.id(), "role": "user", "parts": [{"type": "text", "text": text}]}

    async def spoken_session(self) -> str:
        """A session in which something was said."""
        session = await self.some_session()
        await self.client.say(self.token, {"id": session, "message": self.message()})
        return session


async def says(person: Person) -> None:
    session = await person.some_session()
    context = {"page": person.words(2)}
    await person.client.say(person.token, {"id": session, "message": person.message(), "context": context})


async def says_as_curl(person: Person) -> None:
    session = await person.some_session()
    body = {"id": session, "message": person.words()}
    await person.ask("POST", "/api/chat", body=body, headers={"accept": "application/json"})


async def asks_for_the_time(person: Person) -> None:
    await person.client.say(person.token, {"id": await person.some_session(), "message": person.message("[clock]")})


async def has_something_written(person: Person) -> None:
    """By an agent that writes: a new document, or the next version of one."""
    kind = person.chance.choice(["prose", "sheet", "code", "diagram"])
    session = await person.some_session()
    answer = await person.client.say(person.token, {"id": session, "message": person.message(f"[{kind}]")})
    page = await person.ask("GET", "/api/documents", params={"sessionId": session})
    stored = [item["id"] for item in page["items"]]
    if not stored:
        person.client.record.complain(f"no {kind} was written", str(dict(answer.types)))
    elif person.chance.random() < 0.5:
        kinds = {"text": "prose", "sheet": "sheet", "python code": "code", "mermaid code": "diagram"}
        mark = f"[{kinds[page['items'][0]['kind']]} {stored[0]}]"
        await person.client.say(person.token, {"id": session, "message": person.message(mark)})
        newest = await person.ask("GET", "/api/documents/{document}", document=stored[0])
        if newest["version"] <= page["items"][0]["version"]:
            person.client.record.complain("a document was not written again", str(newest)[:300])


async def stops(person: Person) -> None:
    session = await person.some_session()
    body = {"id": session, "message": person.message("[slow]")}

    async def stop() -> None:
        await person.ask("POST", "/api/chat/{session}/stop", session=session, expect={202, 204})

    async with person.client.stream(person.token, "POST", "/api/chat", body=body) as response:
        await person.client.read(response, once_it_speaks=stop)
    await person.client.say(person.token, {"id": session, "message": person.message()})


async def leaves_and_comes_back(person: Person) -> None:
    session = await person.some_session()
    body = {"id": session, "message": person.message("[slow]")}
    async with person.client.stream(person.token, "POST", "/api/chat", body=body) as response:
        await first_words(response)
    await person.client.follow(person.token, session)
    await person.ask("GET", MESSAGES, session=session)


async def is_followed(person: Person) -> None:
    """Two more pages of the same person follow an answer, of which one leaves; another message has to wait."""
    session = await person.some_session()
    following: list[asyncio.Task[Any]] = []

    async def follow() -> None:
        following.append(asyncio.create_task(person.client.follow(person.token, session)))
        following.append(asyncio.create_task(_follows_a_while(person, session)))
        await person.client.say(person.token, {"id": session, "message": person.message()}, expect={409})

    body = {"id": session, "message": person.message("[slow]")}
    async with person.client.stream(person.token, "POST", "/api/chat", body=body) as response:
        await person.client.read(response, once_it_speaks=follow)
    await asyncio.gather(*following)


async def _follows_a_while(person: Person, session: str) -> None:
    route = "/api/chat/{session}/stream"
    async with person.client.stream(person.token, "GET", route, expect={200, 204}, session=session) as response:
        if response.status_code == 200:
            await first_words(response)


async def sends_twice_at_once(person: Person) -> None:
    """And once more when it is answered."""
    message = person.message(person.chance.choice(["", "[clock]"]))
    body = {"id": await person.some_session(), "message": message}
    await both(person.client.say(person.token, body), person.client.say(person.token, body))
    again = await person.client.say(person.token, body)
    messages = await person.ask("GET", MESSAGES, session=body["id"], params={"limit": 100})
    texts = [part.get("text") for item in messages["items"] if item["role"] == "user" for part in item["parts"]]
    if texts.count(message["parts"][0]["text"]) != 1:
        person.client.record.complain("a message that was sent again is there twice", str(dict(again.types)))


async def regenerates(person: Person) -> None:
    session = await person.spoken_session()
    body = {"id": session, "messages": [], "trigger": "regenerate-message"}
    if person.chance.random() < 0.3:
        # While the answer before is still being given.
        slow = {"id": session, "message": person.message("[slow]")}
        async with person.client.stream(person.token, "POST", "/api/chat", body=slow) as response:
            await person.client.read(
                response, may_break=True, once_it_speaks=lambda: person.client.say(person.token, body)
            )
    else:
        await person.client.say(person.token, body)


async def edits(person: Person) -> None:
    session = await person.spoken_session()
    messages = await person.ask("GET", MESSAGES, session=session, params={"limit": 100})
    said = [item["id"] for item in messages["items"] if item["role"] == "user"]
    edited = person.chance.choice(said)
    body = {"id": session, "message": person.message(message_id=edited), "messageId": edited}
    await person.client.say(person.token, body)


async def meets_a_broken_provider(person: Person) -> None:
    """And tries again."""
    session = await person.some_session()
    body = {"id": session, "message": person.message(person.chance.choice(["[broken]", "[failing]"]))}
    await person.client.say(person.token, body, may_break=True)
    messages = await person.ask("GET", MESSAGES, session=session)
    if messages["items"][-1]["status"] != "failed":
        person.client.record.complain("a broken answer is not failed", str(messages["items"][-1])[:600])
    await person.client.say(person.token, {"id": session, "message": person.message()})


async def deletes_while_it_is_answered(person: Person) -> None:
    session = person.id()
    body = {"id": session, "message": person.message("[slow]")}

    async def delete() -> None:
        await person.ask("DELETE", SESSION, session=session, expect={204})

    async with person.client.stream(person.token, "POST", "/api/chat", body=body) as response:
        await person.client.read(response, may_break=True, once_it_speaks=delete)
    await person.ask("GET", SESSION, session=session, expect={404})


async def attaches_a_file(person: Person) -> None:
    data = f"{person.words(40)}\n".encode()
    new = {"name": "notes.txt", "mediaType": "text/plain", "size": len(data)}
    file = await person.ask("POST", "/api/files", body=new, expect={201})
    if person.chance.random() < 0.2:
        return  # never uploaded
    await person.client.upload(file["upload"], "notes.txt", data)
    if person.chance.random() < 0.5:
        ready = await person.ask("GET", "/api/files/{file}", file=file["id"])
        if ready["state"] != "ready" or await person.client.download(ready["download"]["url"]) != data:
            person.client.record.complain("a file is not what was uploaded", str(ready)[:600])
    fate = person.chance.random()
    if fate < 0.8:
        session = await person.some_session()
        message = person.message()
        message["parts"].append(
            {"type": "file", "url": file["url"], "mediaType": "text/plain", "filename": "notes.txt"}
        )
        await person.client.say(person.token, {"id": session, "message": message})
    if fate > 0.6:
        await person.ask("DELETE", "/api/files/{file}", file=file["id"], expect={204})


async def looks_at_sessions(person: Person) -> None:
    page = await person.ask("GET", "/api/sessions", params={"limit": 2})
    if page["nextCursor"]:
        await person.ask("GET", "/api/sessions", params={"limit": 2, "cursor": page["nextCursor"]})
    await person.ask("GET", "/api/sessions", params={"q": person.chance.choice(WORDS)})
    session = await person.spoken_session()
    await person.ask("GET", SESSION, session=session)
    page = await person.ask("GET", MESSAGES, session=session, params={"limit": 3})
    if page["nextCursor"]:
        await person.ask("GET", MESSAGES, session=session, params={"limit": 3, "cursor": page["nextCursor"]})


async def tidies_sessions(person: Person) -> None:
    session = await person.spoken_session()
    await person.ask("PATCH", SESSION, session=session, body={"title": person.words(3)})
    status = person.chance.choice(["active", "archived"])
    await person.ask("PATCH", SESSION, session=session, body={"status": status, "visibility": "public"})
    # A stranger reads what is public, and does not find what is private again.
    await person.client.ask(None, "GET", MESSAGES, session=session)
    await person.ask("PATCH", SESSION, session=session, body={"visibility": "private"})
    await person.client.ask(None, "GET", MESSAGES, session=session, expect={401, 404})
    await person.ask("GET", "/api/sessions/{session}/export", session=session, params={"format": "markdown"})
    await person.ask("GET", "/api/sessions/{session}/export", session=session, params={"format": "json"})
    messages = await person.ask("GET", MESSAGES, session=session)
    message = person.chance.choice(messages["items"])["id"]
    route = f"{MESSAGES}/{{message}}"
    await person.ask("DELETE", route, session=session, message=message, expect={204})


async def makes_and_deletes_sessions(person: Person) -> None:
    session = person.id()
    body = {"id": session, "title": person.words(2)}
    await both(
        person.ask("POST", "/api/sessions", body=body, expect={200, 201}),
        person.ask("POST", "/api/sessions", body=body, expect={200, 201}),
    )
    await person.ask("DELETE", SESSION, session=session, expect={204})
    if person.chance.random() < 0.2:
        await person.ask("DELETE", "/api/sessions", expect={204})
        person.sessions.clear()
        person.documents.clear()


async def votes(person: Person) -> None:
    session = await person.spoken_session()
    messages = await person.ask("GET", MESSAGES, session=session)
    message = [item["id"] for item in messages["items"] if item["role"] == "assistant"][-1]
    route = f"{MESSAGES}/{{message}}/vote"
    for is_upvoted in (True, False):
        await person.ask("PUT", route, session=session, message=message, body={"isUpvoted": is_upvoted})
    await person.ask("GET", "/api/sessions/{session}/votes", session=session)
    if person.chance.random() < 0.5:
        await person.ask("DELETE", route, session=session, message=message, expect={204})


CHAT_DEEDS: Final[dict[Callable[[Person], Any], int]] = {
    says: 20,
    says_as_curl: 6,
    asks_for_the_time: 6,
    has_something_written: 8,
    stops: 3,
    leaves_and_comes_back: 3,
    is_followed: 3,
    sends_twice_at_once: 4,
    regenerates: 4,
    edits: 4,
    meets_a_broken_provider: 2,
    deletes_while_it_is_answered: 2,
    attaches_a_file: 5,
    looks_at_sessions: 5,
    tidies_sessions: 4,
    makes_and_deletes_sessions: 3,
    votes: 4,
}
