"""A local server that speaks the wire protocols of OpenAI, Google and Anthropic, for tests and the benchmark.

The real SDKs are pointed at it by a base URL; what "the model" does is scripted by the test, and every request
that reached "the provider" can be asserted on::

    emulator.script(Reply(text=["Hel", "lo"], usage=Usage(input=40, cached_read=10, output=2)))
    ...
    assert emulator.requests[0].system == "Be kind."

With nothing scripted it echoes the last user text. `python -m tests.emulator` runs it as a process of its own.
"""

from tests.emulator.fixed import Fixed
from tests.emulator.request import Attachment, Provider, Request, ToolResult, Turn
from tests.emulator.script import (
    Bell,
    Citation,
    CodeExecution,
    Cut,
    Fault,
    Garbage,
    Gate,
    Hold,
    Reply,
    Silence,
    Source,
    ToolCall,
    UrlContext,
    Usage,
    WebSearch,
)
from tests.emulator.server import Emulator, base_url

__all__ = [
    "Attachment",
    "Bell",
    "Citation",
    "CodeExecution",
    "Cut",
    "Emulator",
    "Fault",
    "Fixed",
    "Garbage",
    "Gate",
    "Hold",
    "Provider",
    "Reply",
    "Request",
    "Silence",
    "Source",
    "ToolCall",
    "ToolResult",
    "Turn",
    "UrlContext",
    "Usage",
    "WebSearch",
    "base_url",
]
