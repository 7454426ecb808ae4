"""What a function loads: the small ones no model SDK, chat only that of the provider in use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL_LIBRARIES = {"pydantic_ai", "openai", "anthropic", "google.genai", "mcp", "genai_prices"}
OF_PROVIDER = {"openai": "openai", "anthropic": "anthropic", "google": "google.genai"}
SMALL_FUNCTIONS = ("account", "admin", "auth_trigger", "documents", "files", "migrate", "purge", "sessions")


def loaded_by(program: str) -> set[str]:
    """The model libraries among the modules that a fresh interpreter has loaded after this program."""
    result = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT}/layers/core:{ROOT}/layers/agents",
            "DATABASE_URL": "postgresql:///none",
            "GUESTS_ENABLED": "false",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(result.stdout.split())
    return {library for library in MODEL_LIBRARIES | {"boto3"} if library in modules}


@pytest.mark.parametrize("function", SMALL_FUNCTIONS)
def test_a_small_function_loads_no_model_library(function: str) -> None:
    assert loaded_by(f"from functions.{function} import app") == set()


def test_the_core_layer_loads_no_model_library() -> None:
    modules = sorted(
        f"threadkeep.{path.stem}" for path in (ROOT / "layers/core/threadkeep").glob("*.py") if path.stem != "__init__"
    )

    assert loaded_by("import " + ", ".join(modules)) == set()


@pytest.mark.parametrize("provider", OF_PROVIDER)
def test_chat_loads_only_the_provider_in_use(provider: str) -> None:
    key = {"google": "GEMINI_API_KEY"}.get(provider, f"{provider.upper()}_API_KEY")
    program = f"""
import os
os.environ[{key!r}] = "test-key"
from functions.chat import app
from threadkeep.settings import settings
from threadkeep_agents.conversations import Conversations
from threadkeep_agents.providers import Providers
Providers(settings()).model({provider!r}, "some-model")
"""

    others = {library for name, library in OF_PROVIDER.items() if name != provider}

    loaded = loaded_by(program)
    assert OF_PROVIDER[provider] in loaded
    assert not loaded & (others | {"mcp", "boto3"})
