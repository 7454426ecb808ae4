"""SnapStart: what is in the memory image that many environments start from, and what each makes for itself."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.artefacts.environments import Built
from tests.aws import recorded

# A fork is as near as a process comes to a restored image: the same memory, and from there on a life of its own.
PROGRAM = """
import contextlib, json, os, random, socket, sys, threading
from functions.account.app import handler
import snapshot_restore_py

event = json.loads(sys.argv[1])

def connections():
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as each:
            # The event loop has a pair of its own, without names.
            found += bool(each.getpeername())
    return found

image = {
    "threads": threading.active_count(),
    "connections": connections(),
    "sdk": "boto3" in sys.modules,
}
state = random.getstate()
restored = []
for _ in range(2):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Python seeds it anew after a fork, and not after a restore.
        random.setstate(state)
        for function, arguments, named in snapshot_restore_py.get_after_restore():
            function(*arguments, **named)
        answer = handler(event, None)
        said = {"random": random.random(), "status": answer["statusCode"], "body": json.loads(answer["body"])}
        said["correlation"] = answer["headers"]["x-correlation-id"]
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        restored.append(json.loads(pipe.read() or "null"))
    os.waitpid(child, 0)
print(json.dumps({"image": image, "restored": restored}))
"""


@pytest.fixture
def by_secret(variables: dict[str, str], secrets_manager: Any) -> dict[str, str]:
    """The environment of a function whose database is named by a secret, and that is started for a snapshot."""
    arn = secrets_manager.create_secret(Name=f"snapshot-{os.getpid()}", SecretString=variables["DATABASE_URL"])["ARN"]
    sdk = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    given = {name: value for name, value in variables.items() if name != "DATABASE_URL"}
    return given | sdk | {"DATABASE_URL_SECRET_ARN": arn, "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}


def test_an_image_holds_no_connection_and_each_restored_environment_its_own_ids(
    built: Built, by_secret: dict[str, str]
) -> None:
    event = recorded("http_api_auth_guest")
    finished = subprocess.run(
        [built.folder / "bin/python3", "-c", PROGRAM, json.dumps(event)],
        env=built.environment("AccountFunction", by_secret),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    said = json.loads(finished.stdout.splitlines()[-1])

    # The AWS SDK is in the image, without having been asked anything.
    assert said["image"] == {"threads": 1, "connections": 0, "sdk": True}
    one, other = said["restored"]
    assert (one["status"], other["status"]) == (201, 201)
    assert one["random"] != other["random"]
    assert one["correlation"] != other["correlation"]
    assert one["body"]["userId"] != other["body"]["userId"]
    assert one["body"]["token"] != other["body"]["token"]
