"""Takes secrets out of what is about to be logged: tokens, keys, passwords, signatures, and what stands in headers."""

from __future__ import annotations

import re
from typing import Any, Final

REDACTED: Final = "[redacted]"

# What a secret is recognised by: its own form, or the name before it. Each has bounds, so that a long text takes no
# longer than its length.
_START: Final = r"(?<![\w.-])"
_OWN_FORM: Final = (
    _START + r"eyJ[\w-]{5,}={0,2}\.[\w-]{5,}(?:\.[\w-]*)?",
    _START + r"(?:sk|pk|rk)-[\w-]{12,}",
    _START + r"AIza[\w-]{20,}",
    _START + r"ya29\.[\w-]+",
    _START + r"(?:gh[opsur]_|github_pat_|glpat-|xox[abposr]-)[\w-]{8,}",
    _START + r"(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    _START + r"whsec_[\w+/=-]{8,}",
    r"-----BEGIN[ ][A-Z ]{0,20}PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]{0,20}PRIVATE[ ]KEY-----|\Z)",
)
_NAME: Final = (
    r"(?:authorization|cookie|passw(?:or)?d|passphrase|secret|token|signature|credential"
    r"|(?:api|private|access|signing)[_-]?key)"
)
# The quotes are escaped where one JSON text stands in another.
_SECRETS: Final = re.compile(
    rf"""
    (?P<scheme>{_START}(?:bearer|basic)\s+)[\w.~+/=-]{{6,}}
    | (?P<login>{_START}[a-z][a-z0-9+.-]{{0,20}}://)[^\s/"'@]{{0,500}}@
    | (?P<named>{_NAME}(?:\\*["'])?\s{{0,9}}[=:]\s{{0,9}})
        (?:\\*"[^"\\]*\\*"|\\*'[^'\\]*\\*'|(?:(?:bearer|basic)\s+)?[^\s"'\\,;&}}\])]+)
    | (?P<query>[?&](?:key|sig|code)=)[^\s"'\\&]+
    | {"|".join(f"(?:{form})" for form in _OWN_FORM)}
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_NAMED_SO: Final = re.compile(rf"[\w.-]{{0,40}}{_NAME}", re.IGNORECASE)
# One of these is in every text that holds a secret; to look for them takes a hundredth of the time.
_SIGNS: Final = (
    *("bearer", "basic", "://", "authorization", "cookie", "passw", "passphrase", "secret", "token", "signature"),
    *("credential", "key", "sig=", "code=", "eyj", "sk-", "pk-", "rk-", "aiza", "ya29", "gh", "glpat-", "xox", "akia"),
    *("asia", "whsec_", "github_pat_"),
)


def redact(text: str) -> str:
    """The text without its secrets; what named them stays."""
    in_small_letters = text.lower()
    if not any(sign in in_small_letters for sign in _SIGNS):
        return text
    return _SECRETS.sub(_without, text)


def redacted(value: Any) -> Any:
    """The same for every text in a structure of objects and lists, and for what a member is named as a secret."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: _member(name, member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(member) for member in value]
    return value


def _member(name: object, value: Any) -> Any:
    if isinstance(value, str) and isinstance(name, str) and _NAMED_SO.fullmatch(name):
        return REDACTED
    return redacted(value)


def _without(match: re.Match[str]) -> str:
    kept = match["scheme"] or match["named"] or match["query"] or ""
    return f"{match['login']}{REDACTED}@" if match["login"] else kept + REDACTED
