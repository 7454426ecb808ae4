"""What a tool returned as a model may read it and the database keep it: plain JSON of a bounded size."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import BinaryContent, FileUrl, ToolReturn
from pydantic_core import PydanticSerializationError, to_jsonable_python

from threadkeep.log import logger
from threadkeep.storable import storable

# Of a tool's result; the model reads it again with every later message of the session.
MAX_CHARACTERS: Final = 60_000
# Of images and other files in a result, which are kept with the answer.
MAX_FILE_BYTES: Final = 1024 * 1024


def readable(result: Any) -> Any:
    """The result as plain JSON; text, or JSON as text, if it had to be cut. Files stay as they are.

    Raises `ToolFailed` for what cannot be written as JSON, and for files that are too large.
    """
    files = [piece for piece in _pieces(result) if isinstance(piece, BinaryContent)]
    if sum(len(each.data) for each in files) > MAX_FILE_BYTES:
        raise ToolFailed(f"The tool returned files of more than {MAX_FILE_BYTES} bytes.")
    if isinstance(result, ToolReturn) or any(isinstance(piece, BinaryContent | FileUrl) for piece in _pieces(result)):
        return result
    try:
        plain = storable(to_jsonable_python(result, bytes_mode="base64", inf_nan_mode="constants"))
        text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, allow_nan=False)
    except (PydanticSerializationError, UnicodeError, ValueError, RecursionError) as error:
        logger.error("a tool returned no JSON", exc_info=error, extra={"returned": type(result).__qualname__})
        raise ToolFailed("The tool returned something that cannot be written as JSON.") from error
    return plain if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "\n[cut off here]"


def _pieces(result: Any) -> Iterable[Any]:
    if isinstance(result, ToolReturn):
        yield from _pieces(result.return_value)
        yield from _pieces(result.content)
    elif isinstance(result, list | tuple):
        yield from result
    else:
        yield result
