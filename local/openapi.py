"""Writes `openapi.json`, the contract of all functions together: `python -m local.openapi`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from local.configuration import Keys, with_defaults
from local.server import application
from threadkeep.settings import Settings
from threadkeep.web.contract import document

OPENAPI: Final = Path(__file__).parents[1] / "openapi.json"


def main() -> None:
    OPENAPI.write_text(contract_text())
    print(f"{OPENAPI.name} is written.")


def contract_text() -> str:
    """The contract as it is committed."""
    # No request is served, so neither the keys nor the database are real.
    keys = Keys(issuer="x" * 32, guests="x" * 32, hooks="whsec_" + "eHh4" * 12)
    settings = Settings.load(with_defaults({}, keys, "postgresql:///threadkeep"))
    return json.dumps(document(application(settings)), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
