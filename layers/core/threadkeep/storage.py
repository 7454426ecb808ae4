"""Where the bytes of attached files are: a bucket of S3, or a folder of this machine.

An upload goes past the functions, by a form whose signature binds key, size and media type; a download by a signed
address that lives shortly. Both stores give the same form and take it in the same way (`multipart/form-data`, the
fields first, then `file`), so a front end does not know which one it has.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal, Protocol, TypeVar
from urllib.parse import quote

from threadkeep.errors import ThreadkeepError
from threadkeep.file_kinds import FileType
from threadkeep.settings import Settings

UPLOAD_SECONDS: Final = 15 * 60
DOWNLOAD_SECONDS: Final = 10 * 60
UPLOADS_PATH: Final = "/api/files/uploads"
CONTENT_PATH: Final = "/api/files/content"
DELETED_AT_ONCE: Final = 1000

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 20
RETRY_AFTER_SECONDS: Final = 5

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class UploadForm:
    """A form to post: its address, its fields, and then the file as the field `file`."""

    url: str
    fields: dict[str, str]
    method: Literal["POST"] = "POST"


class Storage(Protocol):
    """A store of objects by key. What cannot be reached raises `unavailable:files`."""

    async def upload_form(self, key: str, declared: FileType, size: int) -> UploadForm:
        """The form by which just this object can be uploaded for 15 minutes; `size` in bytes."""

    async def download_url(self, key: str, declared: FileType, name: str) -> str:
        """An address that gives the object for 10 minutes, under this name; a path if it is on this machine."""

    async def read(self, key: str, maximum: int) -> bytes | None:
        """The object, of a larger one the first `maximum` bytes; None if there is none."""

    async def write(self, key: str, data: bytes, declared: FileType) -> None:
        """Puts an object there, whole or not at all."""

    async def delete(self, keys: Sequence[str]) -> list[str]:
        """Deletes the objects, at most 1,000; one that is not there is deleted. Gives the keys that stayed."""


def storage_of(settings: Settings) -> Storage | None:
    """The store that these settings name; None if they name none."""
    if settings.files_bucket:
        return BucketStorage(settings.files_bucket)
    if settings.files_directory and settings.files_signing_key:
        return DiskStorage(Path(settings.files_directory), settings.files_signing_key.get_secret_value().encode())
    return None


def required(storage: Storage | None) -> Storage:
    """The store, or `unavailable:files` where there is none."""
    if storage is None:
        raise ThreadkeepError("unavailable:files", "This installation has no store for files.")
    return storage


class BucketStorage:
    """A private bucket of S3, or of a server that speaks its protocol (`AWS_ENDPOINT_URL_S3`)."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._making = Lock()

    async def upload_form(self, key: str, declared: FileType, size: int) -> UploadForm:
        bound = {"Content-Type": declared.media_type}
        form = await self._do(
            lambda client: client.generate_presigned_post(
                self._bucket,
                key,
                Fields=bound,
                Conditions=[bound, ["content-length-range", size, size]],
                ExpiresIn=UPLOAD_SECONDS,
            )
        )
        return UploadForm(form["url"], form["fields"])

    async def download_url(self, key: str, declared: FileType, name: str) -> str:
        parameters = {
            "Bucket": self._bucket,
            "Key": key,
            "ResponseContentType": declared.served_as,
            "ResponseContentDisposition": disposition(declared, name),
        }
        url: str = await self._do(
            lambda client: client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=DOWNLOAD_SECONDS)
        )
        return url

    async def read(self, key: str, maximum: int) -> bytes | None:
        def read(client: Any) -> bytes | None:
            try:
                answer = client.get_object(Bucket=self._bucket, Key=key)
            except client.exceptions.NoSuchKey:
                return None
            with answer["Body"] as body:
                data: bytes = body.read(maximum)
            return data

        return await self._do(read)

    async def write(self, key: str, data: bytes, declared: FileType) -> None:
        await self._do(
            lambda client: client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=declared.served_as)
        )

    async def delete(self, keys: Sequence[str]) -> list[str]:
        if not keys:
            return []
        wanted = {"Objects": [{"Key": key} for key in keys[:DELETED_AT_ONCE]], "Quiet": True}
        answer = await self._do(lambda client: client.delete_objects(Bucket=self._bucket, Delete=wanted))
        return [error["Key"] for error in answer.get("Errors", ())]

    async def _do(self, work: Callable[[Any], Result]) -> Result:
        """In a thread: boto3 blocks, and its first use loads it, which takes longer than a request should."""
        return await asyncio.to_thread(self._work, work)

    def _work(self, work: Callable[[Any], Result]) -> Result:
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        try:
            return work(self._client)
        except (BotoCoreError, ClientError) as error:
            raise ThreadkeepError("unavailable:files", retry_after=RETRY_AFTER_SECONDS) from error

    @property
    def _client(self) -> Any:
        # Making a client is not safe in several threads; using one is.
        with self._making:
            return self._made

    @cached_property
    def _made(self) -> Any:
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        # Presigned for the global address, a new bucket elsewhere would redirect the upload, which loses its body.
        is_aws = not (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "virtual" if is_aws else "path"},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 3},
        )
        return boto3.session.Session().client("s3", config=config)


class DiskStorage:
    """A folder of this machine, and forms and addresses that this machine signs and serves itself."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._folder = folder
        self._secret = secret

    async def upload_form(self, key: str, declared: FileType, size: int) -> UploadForm:
        policy = _encoded(
            {"key": key, "mediaType": declared.media_type, "size": size, "expires": int(time.time()) + UPLOAD_SECONDS}
        )
        fields = {
            "Content-Type": declared.media_type,
            "key": key,
            "policy": policy,
            "signature": self._signature("upload", policy),
        }
        return UploadForm(UPLOADS_PATH, fields)

    async def download_url(self, key: str, declared: FileType, name: str) -> str:
        grant = _encoded(
            {
                "key": key,
                "contentType": declared.served_as,
                "disposition": disposition(declared, name),
                "expires": int(time.time()) + DOWNLOAD_SECONDS,
            }
        )
        return f"{CONTENT_PATH}/{grant}.{self._signature('download', grant)}"

    async def receive(self, fields: dict[str, str], data: bytes) -> None:
        """Takes what was uploaded by one of our forms; raises `forbidden:upload` and `too_large:file`."""
        policy = self._granted("upload", fields.get("policy", ""), fields.get("signature", ""))
        if policy is None or (fields.get("key"), fields.get("Content-Type")) != (policy["key"], policy["mediaType"]):
            raise ThreadkeepError("forbidden:upload")
        if len(data) != policy["size"]:
            raise ThreadkeepError("too_large:file", f"The form is for a file of {policy['size']} bytes.")
        await _in_thread(lambda: self._write(policy["key"], data))

    def granted_file(self, token: str) -> tuple[Path, dict[str, str]]:
        """The file that a download address means, and its headers; raises `forbidden:download`, `not_found:file`."""
        grant, _, signature = token.partition(".")
        granted = self._granted("download", grant, signature)
        if granted is None:
            raise ThreadkeepError("forbidden:download")
        path = self._path(granted["key"])
        if not path.is_file():
            raise ThreadkeepError("not_found:file")
        return path, {"content-type": granted["contentType"], "content-disposition": granted["disposition"]}

    async def read(self, key: str, maximum: int) -> bytes | None:
        def read() -> bytes | None:
            try:
                with self._path(key).open("rb") as file:
                    return file.read(maximum)
            except FileNotFoundError:
                return None

        return await _in_thread(read)

    async def write(self, key: str, data: bytes, declared: FileType) -> None:
        del declared  # it comes with the download address
        await _in_thread(lambda: self._write(key, data))

    async def delete(self, keys: Sequence[str]) -> list[str]:
        def delete() -> None:
            for key in keys[:DELETED_AT_ONCE]:
                self._path(key).unlink(missing_ok=True)

        await _in_thread(delete)
        return []

    def _write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        unfinished = path.with_name(f".{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            unfinished.replace(path)
        finally:
            with suppress(FileNotFoundError):
                unfinished.unlink()

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise AssertionError("not a key that is made here")
        return self._folder / key

    def _granted(self, purpose: str, grant: str, signature: str) -> dict[str, Any] | None:
        """What was signed; None if it was not signed here, or has expired."""
        if not hmac.compare_digest(self._signature(purpose, grant).encode(), signature.encode("utf-8", "replace")):
            return None
        granted: dict[str, Any] = json.loads(base64.urlsafe_b64decode(grant))
        return granted if granted["expires"] > time.time() else None

    def _signature(self, purpose: str, grant: str) -> str:
        text = f"{purpose}\n{grant}".encode("utf-8", "replace")
        return hmac.digest(self._secret, text, hashlib.sha256).hex()


async def _in_thread(work: Callable[[], Result]) -> Result:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise ThreadkeepError("unavailable:files", retry_after=RETRY_AFTER_SECONDS) from error


def disposition(declared: FileType, name: str) -> str:
    """The header that gives a download its name: in UTF-8, and without what is not ASCII for who reads that only."""
    plain = re.sub(r'[^ -~]|["\\%;/]', "_", name)
    way = "inline" if declared.is_shown else "attachment"
    return f"{way}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


_KEY: Final = re.compile(r"(?:uploads|files)/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:\.[0-9a-f]{16})?")


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()
