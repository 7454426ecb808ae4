"""What was built for this machine, and the environment variables of a deployed installation."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from local.build import UnreachableError
from tests.artefacts import environments
from tests.artefacts.environments import Built, LambdaFunction
from tests.providers import HOOK_SECRET, ISSUERS

Deploy = Callable[..., LambdaFunction]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Everything built for this machine, once a run whatever the number of its processes."""
    if sys.platform != "linux":
        pytest.skip("the emulator of Lambda's runtime is a program for Linux")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    try:
        return environments.built(folder / "artefacts")
    except UnreachableError as error:
        pytest.skip(f"the wheels cannot be fetched: {error}")


@pytest.fixture
def variables(api_database_url: str) -> dict[str, str]:
    """What the template sets for every function."""
    return {
        "DATABASE_URL": api_database_url,
        "AUTH_ISSUERS": json.dumps(ISSUERS),
        "GUEST_TOKEN_KEYS": json.dumps({"k1": "g" * 32}),
        "AUTH_HOOK_SECRETS": HOOK_SECRET,
        "ENVIRONMENT": "production",
        "ALLOWED_ORIGINS": "https://app.example.com",
    }


@pytest.fixture
def deploy(built: Built, variables: dict[str, str], tmp_path: Path) -> Iterator[Deploy]:
    """Deploys a function by its logical id; variables that are given as None it does not have."""
    with ExitStack() as stack:

        def deployed(logical_id: str, **changes: str | None) -> LambdaFunction:
            log = tmp_path / f"{logical_id}.log"
            return stack.enter_context(environments.running(built, logical_id, variables | changes, log))

        yield deployed
