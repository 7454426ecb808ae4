"""Takes secrets out of what is about to be logged: tokens, keys, passwords, signatures, and what stands in headers."""

from __future__ import annotations

import re
from typing import Any, Final

REDACTED: Final = "[redacted]"

# What a secret is recognised by: its own form, or the name before it. A value ends at a quote, also one that is
# escaped as in a JSON text, at white space or at what separates members.
_OWN_FORM: Final = (
    r"eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?",
    r"\b(?:sk|pk|rk)-[\w-]{12,}",
    r"\bAIza[\w-]{20,}",
    r"\bya29\.[\w-]+",
    r"\b(?:gh[opsur]_\w{16,}|github_pat_\w{16,})",
    r"\bglpat-[\w-]{16,}",
    r"\bxox[abposr]-[\w-]{8,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bwhsec_[\w+/=-]{8,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
)
_NAMES: Final = (
    r"(?:proxy-)?authorization|(?:set-)?cookie|pass(?:word|wd|phrase)|(?:client|shared|signing|webhook)?[_-]?secret"
    r"|(?:x-|x_)?(?:goog[_-])?api[_-]?key|x-guest-token|[a-z]*(?:access|refresh|guest|id|session|security)[_-]?token"
    r"|(?:x-amz-)?(?:signature|credential|security-token)|webhook-signature|private[_-]?key|aws_secret_access_key"
)
_QUOTE: Final = r"\\*[\"']"
_SECRETS: Final = re.compile(
    rf"""
    (?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{{6,}}
    | (?P<login>\b[a-z][a-z0-9+.-]*://)[^\s/"'@]*@
    | (?P<named>\b(?:{_NAMES})(?:{_QUOTE})?\s*[=:]\s*)
        (?:\\*"[^"\\]*\\*"|\\*'[^'\\]*\\*'|(?:(?:bearer|basic)\s+)?[^\s"'\\,;&}}\])]+)
    | (?P<query>[?&](?:key|token|sig|code)=)[^\s"'\\&]+
    | {"|".join(f"(?:{form})" for form in _OWN_FORM)}
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def redact(text: str) -> str:
    """The text without its secrets; what named them stays."""
    return _SECRETS.sub(_without, text)


def redacted(value: Any) -> Any:
    """The same for every text in a structure of objects and lists."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redacted(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(member) for member in value]
    return value


def _without(match: re.Match[str]) -> str:
    kept = match["scheme"] or match["named"] or match["query"] or ""
    return f"{match['login']}{REDACTED}@" if match["login"] else kept + REDACTED
