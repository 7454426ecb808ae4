"""Checking an upload while something else happens to it: no object stays without a row, no row without its object."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest

from tests.crowd import Owner, at_once, somebody
from tests.stores import PNG
from threadkeep import files
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.file_kinds import FileType
from threadkeep.identity import Principal
from threadkeep.storage import DiskStorage


class Interrupted(DiskStorage):
    """A store in which something happens around the writing of a checked copy."""

    def __init__(self, folder: Path, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(folder, b"f" * 48)
        self._meanwhile = meanwhile
        self.folder = folder

    async def write(self, key: str, data: bytes, declared: FileType) -> None:
        await super().write(key, data, declared)
        await self._meanwhile()

    def objects(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}


async def nothing() -> None:
    return None


async def upload(database: Database, storage: DiskStorage, user: Principal) -> UUID:
    file, form = await files.create(database, storage, user, name="a.png", media_type="image/png", size=len(PNG))
    await storage.receive(form.fields, PNG)
    return file.id


async def deletions(owner: Owner, condition: str = "true") -> set[str]:
    return {
        row["storage_key"]
        for row in await owner.rows(f"select storage_key from private.file_deletions where {condition}")
    }


async def test_a_file_that_is_deleted_while_it_is_checked_leaves_no_object(
    database: Database, owner: Owner, tmp_path: Path
) -> None:
    user = somebody()
    storage = Interrupted(tmp_path, lambda: owner.rows("delete from public.files"))
    file = await upload(database, storage, user)

    with pytest.raises(ThreadkeepError, match=r"^not_found:file"):
        await files.read(database, storage, user, file)

    assert storage.objects() == await deletions(owner)
    assert len(storage.objects()) == 2


async def test_a_check_that_dies_half_way_leaves_its_copy_to_the_schedule(
    database: Database, owner: Owner, tmp_path: Path
) -> None:
    user = somebody()

    async def die() -> None:
        raise ThreadkeepError("unavailable:files")

    dying = Interrupted(tmp_path, die)
    file = await upload(database, dying, user)
    with pytest.raises(ThreadkeepError, match=r"^unavailable:files"):
        await files.read(database, dying, user, file)
    assert await deletions(owner) == {key for key in dying.objects() if key.startswith("files/")}

    alive = Interrupted(tmp_path, nothing)
    assert (await files.read(database, alive, user, file)).state == "ready"

    [row] = await owner.rows("select storage_key from public.files")
    assert alive.objects() - await deletions(owner) == {row["storage_key"]}


async def test_a_copy_that_the_schedule_took_is_not_used(database: Database, owner: Owner, tmp_path: Path) -> None:
    user = somebody()
    storage = Interrupted(tmp_path, lambda: owner.rows("delete from private.file_deletions"))
    file = await upload(database, storage, user)
    assert (await files.read(database, storage, user, file)).state == "pending"
    assert await deletions(owner) == {key for key in storage.objects() if key.startswith("files/")}


async def test_of_checks_at_once_one_copy_is_used_and_the_others_go(
    database: Database, owner: Owner, tmp_path: Path
) -> None:
    user = somebody()
    storage = Interrupted(tmp_path, lambda: asyncio.sleep(0))
    file = await upload(database, storage, user)

    results = await at_once(*[lambda: files.read(database, storage, user, file) for _ in range(8)])

    assert {result.state for result in results} == {"ready"}
    [row] = await owner.rows("select storage_key from public.files")
    assert storage.objects() - await deletions(owner) == {row["storage_key"]}
    assert row["storage_key"] not in await deletions(owner)
