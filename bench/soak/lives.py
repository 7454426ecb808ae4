"""How people of the soak come and go: residents who stay, accounts that are deleted, guests who sign up or leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.soak.client import Client
from bench.soak.papers import OTHER_DEEDS
from bench.soak.people import CHAT_DEEDS, SESSION, SESSIONS_KEPT, Person

DEEDS: Final[dict[Callable[[Person], Any], int]] = CHAT_DEEDS | OTHER_DEEDS
DEEDS_OF_A_VISIT: Final = (6, 16)


@dataclass
class World:
    """What all people share; `ends` tells them to go home."""

    client: Client
    token_of: Callable[[str], str]
    seed: int
    ends: asyncio.Event


async def live(world: World, number: int) -> None:
    """One caller after another until the end: about every second visit is the resident's."""
    chance = random.Random(f"{world.seed} {number}")
    resident = Person(world.token_of(f"resident-{number}"), world.client, chance)
    visit = 0
    while not world.ends.is_set():
        visit += 1
        kind = chance.choices(["resident", "account", "guest"], [2, 1, 1])[0]
        if kind == "resident":
            await visits(world, resident)
        elif kind == "account":
            person = Person(world.token_of(f"visitor-{number}-{visit}"), world.client, chance)
            await visits(world, person)
            await deletes_account(person)
        else:
            guest = await arrives_as_guest(world, chance)
            await visits(world, guest)
            await signs_up(guest, resident) if chance.random() < 0.6 else await deletes_account(guest)


async def visits(world: World, person: Person) -> None:
    for _ in range(person.chance.randint(*DEEDS_OF_A_VISIT)):
        if world.ends.is_set():
            return
        deed = person.chance.choices(list(DEEDS), list(DEEDS.values()))[0]
        world.client.record.deeds[deed.__name__.replace("_", " ")] += 1
        try:
            await deed(person)
        except Exception as error:  # noqa: BLE001 - the others go on, and the judgement tells
            world.client.record.complain(f"{deed.__name__}: {type(error).__name__}", repr(error))


async def arrives_as_guest(world: World, chance: random.Random) -> Person:
    """By asking for a token, or on the way."""
    if chance.random() < 0.5:
        made = await world.client.ask(None, "POST", "/api/auth/guest", expect={201})
        return Person(made.json()["token"], world.client, chance, is_guest=True)
    made = await world.client.ask(None, "POST", "/api/sessions", body={}, expect={201})
    return Person(made.headers["x-guest-token"], world.client, chance, is_guest=True, sessions=[made.json()["id"]])


async def signs_up(guest: Person, account: Person) -> None:
    """The account takes everything over, twice, and now and then while the guest is being answered."""
    claim = {"body": {"guestToken": guest.token}}
    if guest.chance.random() < 0.4:
        session = await guest.some_session()
        body = {"id": session, "message": guest.message("[slow]")}

        async def sign_up() -> None:
            await account.ask("POST", "/api/me/claim", **claim)

        async with guest.client.stream(guest.token, "POST", "/api/chat", body=body) as response:
            await guest.client.read(response, may_break=True, once_it_speaks=sign_up)
    else:
        await account.ask("POST", "/api/me/claim", **claim)
    again = await account.ask("POST", "/api/me/claim", **claim)
    if again["sessions"]:
        guest.client.record.complain("a claim that was repeated moved something", str(again))
    await guest.ask("GET", "/api/me", expect={403})
    account.sessions += guest.sessions
    account.documents += guest.documents
    while len(account.sessions) > SESSIONS_KEPT:
        # Some were never made: nothing was said in them yet.
        await account.ask("DELETE", SESSION, session=account.sessions.pop(0), expect={204, 404})


async def deletes_account(person: Person) -> None:
    """Now and then while he is being answered."""
    if person.chance.random() < 0.3:
        body = {"id": person.id(), "message": person.message("[slow]")}

        async def delete() -> None:
            person.client.record.deleted_while_answered += 1
            await person.ask("DELETE", "/api/me", expect={204})

        async with person.client.stream(person.token, "POST", "/api/chat", body=body) as response:
            await person.client.read(response, may_break=True, once_it_speaks=delete)
    await person.ask("DELETE", "/api/me", expect={204})
    await person.ask("GET", "/api/me", expect={403})
