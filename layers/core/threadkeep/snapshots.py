"""Lambda's SnapStart: many environments start from one memory image, taken after the init phase.

What must be different in each of them, or may have become old, is not in the image: the connection to the database
is opened and secrets are fetched by the first event, ids and keys come from the kernel, and the issuers' keys carry
the time at which they were fetched. Left is Python's own random generator, whose state would be the same everywhere.
"""

from __future__ import annotations

import os
import random


def is_taken() -> bool:
    """Whether this process is initialised for a snapshot."""
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"


def prepare(*, fetches_secrets: bool) -> None:
    """Puts into the image what may be there, and has the rest made anew after each restore."""
    # Lambda's runtime brings it along; nothing else needs it.
    import snapshot_restore_py

    snapshot_restore_py.register_after_restore(random.seed)
    if fetches_secrets:
        # The AWS SDK, without a call of it.
        from aws_lambda_powertools.utilities import parameters  # noqa: F401
