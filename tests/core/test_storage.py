"""The stores of attached files: what a form lets in, what an address gives out, and nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.stores import PNG
from threadkeep import storage
from threadkeep.errors import ThreadkeepError
from threadkeep.file_kinds import FileType
from threadkeep.settings import Settings, SettingsError
from threadkeep.storage import BucketStorage, DiskStorage, Storage, storage_of

IMAGE = FileType("images", "image/png")
PAGE = FileType("codeFiles", "text/html")


def key(folder: str = "uploads") -> str:
    return f"{folder}/{uuid4()}"


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def settings(**variables: str) -> Settings:
    return Settings.load({"DATABASE_URL": "postgresql:///none", "GUESTS_ENABLED": "false"} | variables)


@pytest.fixture
def configured(store: dict[str, str]) -> Storage:
    made = storage_of(settings(**store))
    assert made is not None
    return made


@pytest.fixture
def disk(on_disk: dict[str, str]) -> DiskStorage:
    made = storage_of(settings(**on_disk))
    assert isinstance(made, DiskStorage)
    return made


async def test_objects_come_back_as_they_were_written_and_go_for_good(configured: Storage) -> None:
    one, other = key("files"), key("files")
    await configured.write(one, PNG, IMAGE)
    await configured.write(other, b"x", IMAGE)

    assert await configured.read(one, 1000) == PNG
    assert await configured.read(one, 3) == PNG[:3]
    assert await configured.delete([one, key("files")]) == []
    assert await configured.delete([]) == []
    assert await configured.read(one, 1000) is None
    assert await configured.read(other, 1000) == b"x"


def test_without_a_bucket_or_a_folder_there_is_no_store() -> None:
    assert storage_of(settings()) is None
    assert storage_of(settings(FILES_DIRECTORY="/somewhere")) is None
    assert isinstance(storage_of(settings(FILES_BUCKET="a-bucket", FILES_DIRECTORY="/x")), BucketStorage)


@pytest.mark.parametrize("variables", [{"FILES_BUCKET": "A bucket"}, {"FILES_SIGNING_KEY": "short"}], ids=str)
def test_a_setting_that_makes_no_sense_is_named(variables: dict[str, str]) -> None:
    [name] = variables
    with pytest.raises(SettingsError, match=f"^{name}"):
        settings(**variables)


# A bucket


async def test_a_form_for_a_bucket_binds_key_type_and_size(bucket: str) -> None:
    wanted = key()
    form = await BucketStorage(bucket).upload_form(wanted, IMAGE, len(PNG))

    policy = json.loads(base64.b64decode(form.fields["policy"]))
    assert {"key": wanted} in policy["conditions"]
    assert {"bucket": bucket} in policy["conditions"]
    assert {"Content-Type": "image/png"} in policy["conditions"]
    assert ["content-length-range", len(PNG), len(PNG)] in policy["conditions"]
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(form.url, data=form.fields, files={"file": ("a.png", PNG, "image/png")})
    assert answer.status_code == 204
    assert await BucketStorage(bucket).read(wanted, 1000) == PNG


async def test_an_address_of_a_bucket_gives_a_page_as_text_to_save(bucket: str) -> None:
    stored = BucketStorage(bucket)
    wanted = key("files")
    await stored.write(wanted, b"<script>", PAGE)
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(await stored.download_url(wanted, PAGE, 'Größe "1".html'))
    assert answer.content == b"<script>"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"Gr__e _1_.html\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%221%22.html"
    )


async def test_addresses_of_a_bucket_name_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    stored = BucketStorage("a-bucket")
    form = await stored.upload_form(key(), IMAGE, 1)
    assert form.url == "https://a-bucket.s3.eu-west-1.amazonaws.com/"
    assert (await stored.download_url(key("files"), IMAGE, "a")).startswith(form.url)


async def test_a_bucket_that_is_not_there_is_unavailable(bucket: str) -> None:
    stored = BucketStorage(f"{bucket}-not")
    for work in (stored.write(key(), b"x", IMAGE), stored.delete([key()])):
        with pytest.raises(ThreadkeepError) as refused:
            await work
        assert refused.value.code == "unavailable:files"


# This machine


async def test_a_form_of_this_machine_takes_just_its_file(disk: DiskStorage) -> None:
    wanted = key()
    form = await disk.upload_form(wanted, IMAGE, len(PNG))
    await disk.receive(form.fields, PNG)
    assert await disk.read(wanted, 1000) == PNG


def other_policy(fields: dict[str, str], **changed: Any) -> dict[str, str]:
    policy = json.loads(base64.urlsafe_b64decode(fields["policy"])) | changed
    return fields | {"policy": base64.urlsafe_b64encode(json.dumps(policy).encode()).decode()}


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields | {"key": key()},
        lambda fields: fields | {"key": "../../etc/passwd"},
        lambda fields: fields | {"Content-Type": "text/html"},
        lambda fields: fields | {"signature": "0" * 64},
        lambda fields: fields | {"signature": "ä"},
        lambda fields: fields | {"policy": ""},
        lambda fields: fields | {"policy": "\ud800"},
        lambda fields: other_policy(fields, size=5),
        lambda fields: other_policy(fields, key="files/x"),
        lambda fields: other_policy(fields, expires=4_000_000_000),
        lambda fields: {},
    ],
)
async def test_a_form_that_was_changed_is_refused(
    disk: DiskStorage, change: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    form = await disk.upload_form(key(), IMAGE, len(PNG))
    with pytest.raises(ThreadkeepError) as refused:
        await disk.receive(change(form.fields), PNG)
    assert refused.value.code == "forbidden:upload"


@pytest.mark.parametrize("data", [PNG + b"x", PNG[:-1], b""])
async def test_a_file_of_another_size_is_refused(disk: DiskStorage, data: bytes) -> None:
    wanted = key()
    form = await disk.upload_form(wanted, IMAGE, len(PNG))
    with pytest.raises(ThreadkeepError) as refused:
        await disk.receive(form.fields, data)
    assert refused.value.code == "too_large:file"
    assert await disk.read(wanted, 10) is None


async def test_forms_and_addresses_expire(disk: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "UPLOAD_SECONDS", -1)
    monkeypatch.setattr(storage, "DOWNLOAD_SECONDS", -1)
    wanted = key("files")
    await disk.write(wanted, PNG, IMAGE)
    form = await disk.upload_form(key(), IMAGE, len(PNG))
    with pytest.raises(ThreadkeepError, match=r"^forbidden:upload"):
        await disk.receive(form.fields, PNG)
    with pytest.raises(ThreadkeepError, match=r"^forbidden:download"):
        disk.granted_file((await disk.download_url(wanted, IMAGE, "a")).rpartition("/")[2])


async def test_a_form_is_no_address_and_an_address_no_form(disk: DiskStorage) -> None:
    form = await disk.upload_form(key(), IMAGE, len(PNG))
    with pytest.raises(ThreadkeepError, match=r"^forbidden:download"):
        disk.granted_file(f"{form.fields['policy']}.{form.fields['signature']}")


@pytest.mark.parametrize("token", ["", ".", "x", "x.y", "../../etc/passwd", "\0", "ä.ö"])
async def test_an_address_that_was_not_signed_gives_nothing(disk: DiskStorage, token: str) -> None:
    with pytest.raises(ThreadkeepError, match=r"^forbidden:download"):
        disk.granted_file(token)


@pytest.mark.parametrize("wanted", ["../x", "/etc/passwd", "files/../../x", "uploads/x", "files/a\0b", ""])
async def test_no_key_leads_out_of_the_folder(disk: DiskStorage, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        await disk.write(wanted, b"x", IMAGE)
    assert names(tmp_path) == []


async def test_a_write_that_fails_leaves_nothing_behind(
    disk: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = key("files")
    await disk.write(wanted, b"old", IMAGE)

    def broken(_self: Path, _target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(ThreadkeepError, match=r"^unavailable:files"):
        await disk.write(wanted, b"new", IMAGE)
    assert await disk.read(wanted, 10) == b"old"
    assert names(tmp_path) == [wanted.rpartition("/")[2]]
