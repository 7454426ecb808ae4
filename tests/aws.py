"""AWS as the functions see it: recorded events, the context that comes with one, Secrets Manager and Cognito."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EVENTS = Path(__file__).parent / "events"


def recorded(name: str) -> Any:
    """A recorded event of AWS."""
    return json.loads((EVENTS / f"{name}.json").read_text())


@dataclass
class LambdaContext:
    """What Lambda tells of an invocation."""

    milliseconds: int = 10_000
    log_stream_name: str = "2026/03/14/[$LATEST]6d1e4f0a93c84b7e8f255a6b7c8d9e0f"

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


@pytest.fixture(scope="module")
def secrets_manager() -> Iterator[Any]:
    """Secrets Manager over HTTP, as its boto3 client; the environment of the process points to it."""
    with _served("eu-west-1"):
        import boto3  # type: ignore[import-untyped]
        from aws_lambda_powertools.utilities import parameters

        parameters.clear_caches()  # type: ignore[no-untyped-call]
        with closing(boto3.client("secretsmanager")) as client:
            yield client


@pytest.fixture(scope="module")
def cognito() -> Iterator[Any]:
    """Cognito over HTTP, as its boto3 client; the environment of the process points to it."""
    with _served("eu-central-1"):
        import boto3

        with closing(boto3.client("cognito-idp")) as client:
            yield client


@contextmanager
def _served(region: str) -> Iterator[None]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            environment.setenv("AWS_ACCESS_KEY_ID", "test")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
            environment.setenv("AWS_DEFAULT_REGION", region)
            yield
    finally:
        server.stop()
