"""Lambda on this machine: what was built, its runtime loop, and environments that know nothing else of this machine.

`aws-lambda-rie`, the emulator of Lambda's runtime, is a program inside aws-sam-cli's wheel; it is fetched by the lock
that `make deploy` uses. Lambda's own libraries (the runtime loop and the AWS SDK) come by the lock of the tests.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from local.build import ROOT, RUNTIME, Target, UnreachableError, build, install, locked, recipes

# For measuring: on Lambda there is nowhere to write to.
UNCOMPILED: Final = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": None}
STARTING_SECONDS: Final = 30.0
WAIT_SECONDS: Final = 60.0
# What Lambda's runtime has of its own, which functions may not bring along and may count on.
OF_LAMBDA: Final = (
    "awslambdaric",
    "boto3",
    "botocore",
    "jmespath",
    "python-dateutil",
    "s3transfer",
    "simplejson",
    "six",
    "snapshot-restore-py",
    "urllib3",
)


@dataclass(frozen=True)
class Built:
    """Everything of this run, in one folder: an artefact by its logical id, `runtime` and `emulator`."""

    folder: Path
    python: str

    def paths(self, logical_id: str) -> list[Path]:
        """What Python looks through on Lambda, in this order: the function, its layers, the runtime."""
        layers = ["AgentsLayer"] if logical_id.startswith("Chat") else []
        layers = [*layers, "CoreLayer"]
        return [self.folder / logical_id, *(self.folder / name / "python" for name in layers), self.runtime]

    @property
    def runtime(self) -> Path:
        """Lambda's own libraries."""
        return self.folder / "runtime"

    @property
    def emulator(self) -> Path:
        """The program `aws-lambda-rie`."""
        return self.folder / "emulator/aws-lambda-rie"

    def environment(self, logical_id: str, given: Mapping[str, str | None]) -> dict[str, str]:
        """The variables of a function: Lambda's and those that are given, if not as None; nothing of this machine."""
        variables = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "LAMBDA_TASK_ROOT": str(self.folder / logical_id),
            "LAMBDA_RUNTIME_DIR": str(self.runtime),
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_LAMBDA_FUNCTION_NAME": f"threadkeep-{logical_id}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_FUNCTION_TIMEOUT": "30",
            "PYTHONPATH": ":".join(map(str, self.paths(logical_id))),
            # Compiled once a run, where Lambda compiles for each environment: see UNCOMPILED.
            "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"),
            **given,
        }
        return {name: value for name, value in variables.items() if value is not None}


def built(folder: Path) -> Built:
    """Build for this machine, once for all processes of a run; UnreachableError if something cannot be fetched."""
    python = python_to_use()
    result = Built(folder, python)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "unreachable").exists():
            raise UnreachableError((folder / "unreachable").read_text())
        if not (folder / "done").exists():
            try:
                _build_all(result)
            except UnreachableError as error:
                (folder / "unreachable").write_text(str(error))
                raise
            (folder / "done").touch()
    return result


def python_to_use() -> str:
    """The Python of `ARTEFACT_PYTHON`, else one of Lambda's version, else the one that runs the tests."""
    given = os.environ.get("ARTEFACT_PYTHON")
    lambdas = shutil.which(f"python{RUNTIME}")
    if not given and lambdas and subprocess.run([lambdas, "-c", ""], capture_output=True, check=False).returncode == 0:
        given = lambdas
    own: str = getattr(sys, "_base_executable", sys.executable)
    return given or own


def _build_all(result: Built) -> None:
    target = Target.this_machine(result.python)
    for logical_id in recipes():
        build(logical_id, target, result.folder / logical_id)
    development = locked((ROOT / "requirements/dev.txt").read_text())
    install("\n".join(development[name] for name in OF_LAMBDA), result.runtime, target)
    sam = locked((ROOT / "requirements/sam.txt").read_text())["aws-sam-cli"]
    unpacked = result.folder / "sam"
    install(sam, unpacked, target)
    machine = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    result.emulator.parent.mkdir(exist_ok=True)
    shutil.copyfile(unpacked / f"samcli/local/rapid/aws-lambda-rie-{machine}", result.emulator)
    result.emulator.chmod(0o755)
    shutil.rmtree(unpacked)
    # Without the libraries of this machine's Python.
    program = result.folder / "bin/python3"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{result.python}" -S "$@"\n')
    program.chmod(0o755)


class LambdaFunction:
    """A deployed function: the emulator of Lambda's runtime with at most one environment, started by an event."""

    def __init__(self, built: Built, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._built = built
        self._process = process
        self._url = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
        self._log = log

    def invoke(self, event: object) -> Any:
        """The answer to an event, or the error that came instead; text, if it is not JSON."""
        # Its content type is that of a form, whatever is in it.
        answer = httpx.post(self._url, content=json.dumps(event), timeout=WAIT_SECONDS, trust_env=False)
        # It says Bad Gateway where the environment could not start.
        assert answer.status_code in {200, 502}, answer.text
        try:
            return answer.json()
        except ValueError:
            return answer.text

    @property
    def log(self) -> str:
        """What the function and the emulator have said."""
        return self._log.read_text(errors="replace")

    @property
    def environments(self) -> int:
        """How many environments were started so far."""
        return self.log.count("INIT START(")

    @property
    def init_milliseconds(self) -> float:
        """How long the newest environment took before its first event."""
        return float(re.findall(r"INIT REPORT\(durationMs: ([\d.]+)\)", self.log)[-1])

    @property
    def durations(self) -> list[float]:
        """The milliseconds of each event so far, without those before it."""
        return [float(found) for found in re.findall(r"INVOKE RTDONE\([^)]*duration: ([\d.]+)ms", self.log)]

    @property
    def python_version(self) -> str:
        """The version of the Python that it runs on."""
        code = "import platform; print(platform.python_version())"
        finished = subprocess.run([self._built.python, "-c", code], capture_output=True, text=True, check=True)
        return finished.stdout.strip()

    @property
    def peak_mebibytes(self) -> float:
        """The most memory that the running environment ever had."""
        peaks = [_peak(int(path.name)) for path in Path("/proc").glob("[0-9]*") if _parent(path) == self._process.pid]
        return max(peaks, default=0) / 1024


def function_name(logical_id: str) -> str:
    """The folder of a function, such as `auth_trigger` of `AuthTriggerFunction`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", logical_id.removesuffix("Function")).lower()


@contextmanager
def running(result: Built, logical_id: str, given: Mapping[str, str | None], log: Path) -> Iterator[LambdaFunction]:
    """A function on Lambda, with these variables."""
    port, api_port = free_port(), free_port()
    addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    addresses += ["--runtime-api-address", f"127.0.0.1:{api_port}"]
    runtime = [
        str(result.folder / "bin/python3"),
        "-m",
        "awslambdaric",
        f"functions.{function_name(logical_id)}.app.handler",
    ]
    with (
        log.open("wb") as output,
        ended(
            subprocess.Popen(
                [str(result.emulator), *addresses, *runtime],
                env=result.environment(logical_id, given),
                cwd=result.folder / logical_id,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ) as process,
    ):
        until_it_listens(port, process)
        yield LambdaFunction(result, process, port, log)


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its children, which is over afterwards; it leads a session of its own."""
    try:
        yield process
    finally:
        # The emulator puts a function into a group of its own, which would outlive it.
        for group in {process.pid, *(os.getpgid(child) for child in _children(process.pid))}:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        process.wait(10)


def until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when something takes connections at this port; fails if the process ends before, or takes too long."""
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it ended with {process.returncode}"
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens at {port}")


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _children(process_id: int) -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _parent(path) == process_id]


def _parent(process: Path) -> int | None:
    try:
        return int(process.joinpath("stat").read_text().rpartition(") ")[2].split()[1])
    except (OSError, ValueError):
        return None


def _peak(process_id: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0
