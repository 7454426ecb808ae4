"""What Lambda is given: `python -m local.build [--arch arm64 | --host] [--into FOLDER] [LOGICAL_ID …]`.

A layer or a function is a folder named by its logical id in the template. Wheels are fetched for Lambda's Python and
machine, so that neither Docker nor that Python is needed; sources are copied as they are. The same sources and locks
give the same bytes. It runs on the standard library and `uv`, because `sam build` starts it too.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
RUNTIME: Final = "3.13"
MEBIBYTE: Final = 1 << 20

# What Lambda unpacks is 250 MiB at most, of both layers and the function together.
LIMITS: Final[Mapping[str, int]] = {"CoreLayer": 60 * MEBIBYTE, "AgentsLayer": 140 * MEBIBYTE}
FUNCTION_LIMIT: Final = MEBIBYTE
BYTECODE_LIMIT: Final = 170 * MEBIBYTE

# Read by compilers, type checkers and people. Metadata stays whole: libraries look up versions and entry points there.
UNUSED_ENDINGS: Final = frozenset({".c", ".h", ".pxd", ".pxi", ".pyc", ".pyi", ".pyx"})
UNUSED_FOLDERS: Final = frozenset({"__pycache__", "tests"})
CONSOLE_SCRIPTS: Final = "bin"
NOT_OURS_TO_SHIP: Final = shutil.ignore_patterns("__pycache__", "*.pyc", "*.md", "build")

# Any time will do, if it is always the same: the zip file holds it, and its hash decides what a deploy changes.
TIMESTAMP: Final = 1_577_836_800
REQUIREMENT: Final = re.compile(r"^([a-z0-9._-]+)==.*(?:\n[ \t]+.*)*", re.MULTILINE)
UNREACHABLE: Final = re.compile(r"error sending request|dns error|connect|timed out|offline", re.IGNORECASE)
ELF: Final = b"\x7fELF"


class BuildError(Exception):
    """Why nothing fit to be deployed was built."""


class UnreachableError(BuildError):
    """The package registry could not be reached."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an artefact is to run: a Python (`3.13`, or the path of one), for `uv` a platform, in ELF a machine."""

    name: str
    python: str
    platform: str | None
    machine: int
    is_elf: bool = True
    has_bytecode: bool = False

    @classmethod
    def lambda_on(cls, architecture: str, *, has_bytecode: bool = False) -> Target:
        """Lambda's runtime on `arm64` or `x86_64`; with bytecode if that is asked for."""
        uv_name, machine = MACHINES[architecture]
        return cls(architecture, RUNTIME, f"{uv_name}-manylinux_2_28", machine, has_bytecode=has_bytecode)

    @classmethod
    def this_machine(cls, python: str | None = None) -> Target:
        """This machine, with the Python at this path or the one that runs this."""
        architecture = {"aarch64": "arm64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
        if architecture not in MACHINES:
            raise BuildError(f"Lambda does not run on {architecture}.")
        own = getattr(sys, "_base_executable", sys.executable)
        return cls("host", python or own, None, MACHINES[architecture][1], is_elf=sys.platform == "linux")


MACHINES: Final = {"arm64": ("aarch64", 0xB7), "x86_64": ("x86_64", 0x3E)}


@dataclass(frozen=True, slots=True)
class Artefact:
    """A folder that is ready for Lambda, with the number of its files and their size in bytes."""

    logical_id: str
    folder: Path
    files: int
    size: int
    limit: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is named, or everything; 0 if all of it may be deployed."""
    chosen = _parser().parse_args(arguments)
    try:
        with_bytecode = bool(os.environ.get("BYTECODE"))
        target = Target.this_machine() if chosen.host else Target.lambda_on(chosen.arch, has_bytecode=with_bytecode)
        names = chosen.logical_ids or list(recipes())
        if chosen.into and len(names) > 1:
            raise BuildError("--into takes one artefact.")
        built = [build(name, target, chosen.into or ROOT / ".build" / target.name / name) for name in names]
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(built))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local.build", description=__doc__)
    parser.add_argument("--arch", choices=MACHINES, default=os.environ.get("ARCH") or "arm64")
    parser.add_argument("--host", action="store_true", help="for this machine and Python instead, to try it here")
    parser.add_argument("--into", type=Path, help="the folder of the one artefact that is named")
    parser.add_argument("logical_ids", nargs="*", metavar="LOGICAL_ID", help="of the template; all, if none is named")
    return parser


def recipes() -> dict[str, Callable[[Path, Target], None]]:
    """How each artefact is made, by its logical id: two layers, and each folder of `functions/`, chat's twice."""
    folders = sorted(path.parent for path in (ROOT / "functions").glob("*/app.py"))
    functions = {f"{_camel_case(folder.name)}Function": partial(_function, folder.name) for folder in folders}
    return {
        "CoreLayer": _core_layer,
        "AgentsLayer": _agents_layer,
        **functions,
        "ChatStreamFunction": _streaming_chat,
    }


def build(logical_id: str, target: Target, folder: Path) -> Artefact:
    """Make one artefact in `folder`, in the place of whatever is there; BuildError if it is not fit to be deployed."""
    recipe = recipes().get(logical_id)
    if recipe is None:
        raise BuildError(f"{logical_id} is none of {', '.join(recipes())}.")
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    recipe(folder, target)
    files = list(_files(folder))
    _check_machine(files, target)
    for path in [*files, *(path for path in folder.rglob("*") if path.is_dir())]:
        os.utime(path, (TIMESTAMP, TIMESTAMP))
    size = sum(path.stat().st_size for path in files)
    limit = BYTECODE_LIMIT if target.has_bytecode and logical_id == "AgentsLayer" else _limit(logical_id)
    if size > limit:
        raise BuildError(f"{logical_id} has {_mebibytes(size)} MiB, and may have {_mebibytes(limit)}.")
    return Artefact(logical_id, folder, len(files), size, limit)


def _limit(logical_id: str) -> int:
    return LIMITS.get(logical_id, FUNCTION_LIMIT)


def table(artefacts: Sequence[Artefact]) -> str:
    """The sizes in MiB, unpacked, one artefact a line."""
    lines = [f"{'artefact':<24}{'files':>8}{'MiB':>8}{'limit':>8}"]
    for each in artefacts:
        numbers = f"{each.files:>8}{_mebibytes(each.size):>8}{_mebibytes(each.limit):>8}"
        lines.append(f"{each.logical_id:<24}{numbers}  {each.folder}")
    return "\n".join(lines)


def _core_layer(folder: Path, target: Target) -> None:
    _install((ROOT / "requirements/core.txt").read_text(), folder / "python", target)
    _copy(ROOT / "layers/core/threadkeep", folder / "python/threadkeep")
    _compile(folder, target)


def _agents_layer(folder: Path, target: Target) -> None:
    core = locked((ROOT / "requirements/core.txt").read_text())
    agents = locked((ROOT / "requirements/agents.txt").read_text())
    different = [name for name, requirement in core.items() if agents.get(name) != requirement]
    if different:
        raise BuildError(f"The locks of the layers differ, run `make lock`: {', '.join(different)}")
    added = [requirement for name, requirement in agents.items() if name not in core]
    _install("\n".join(added), folder / "python", target)
    _copy(ROOT / "layers/agents/threadkeep_agents", folder / "python/threadkeep_agents")
    _compile(folder, target)


def _function(name: str, folder: Path, target: Target) -> None:
    """The path stays, because a function's modules are imported by it."""
    source = ROOT / "functions" / name
    for path in source.rglob("*.py"):
        place = folder / "functions" / name / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    if name == "migrate":
        _copy(ROOT / "sql", folder / "sql")


def _streaming_chat(folder: Path, target: Target) -> None:
    _function("chat", folder, target)
    program = folder / "run.sh"
    shutil.copyfile(ROOT / "functions/chat/run.sh", program)
    program.chmod(0o755)


def locked(text: str) -> dict[str, str]:
    """The requirements of a lock, each with its hashes, by the name of the library."""
    return {match[1]: match[0] for match in REQUIREMENT.finditer(text)}


def install(requirements: str, folder: Path, target: Target) -> None:
    """Put locked wheels into a folder, exactly these and none built here."""
    if target.platform is None:
        place = ["--python", target.python]
    else:
        place = ["--python", sys.executable, "--python-platform", target.platform, "--python-version", target.python]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        # Copied, for what is linked would change in the cache when it is changed here.
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--link-mode", "copy"]
        command = [_uv(), "pip", "install", "--quiet", *options, *place, "--target", str(folder), "-r", file.name]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        unreachable = UNREACHABLE.search(finished.stderr)
        raise (UnreachableError if unreachable else BuildError)(f"uv: {finished.stderr.strip()}")


def _install(requirements: str, folder: Path, target: Target) -> None:
    install(requirements, folder, target)
    shutil.rmtree(folder / CONSOLE_SCRIPTS, ignore_errors=True)
    (folder / ".lock").unlink(missing_ok=True)
    for path in sorted(folder.rglob("*")):
        if not path.exists():
            continue
        if path.is_dir() and path.name in UNUSED_FOLDERS:
            shutil.rmtree(path)
        elif path.is_file() and path.suffix in UNUSED_ENDINGS:
            path.unlink()
    for record in folder.glob("*.dist-info/RECORD"):
        # What is gone goes from the list too; console scripts would be in it by a hash of this machine's paths.
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if (folder / line.rsplit(",", 2)[0].strip('"')).exists()))


def _compile(folder: Path, target: Target) -> None:
    """Bytecode that is believed without a look at the source: the zip file's times say nothing."""
    if not target.has_bytecode:
        return
    python = shutil.which(f"python{target.python}")
    # A version manager leaves programs that only say that there is none.
    if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        raise BuildError(f"Bytecode is made by Lambda's own Python: python{target.python} is not on the path.")
    options = ["-q", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", "/opt"]
    # Some libraries bring along templates that are no Python, so it never ends well.
    subprocess.run([python, "-m", "compileall", *options, str(folder)], capture_output=True, check=False)


def _uv() -> str:
    beside = [Path(sys.executable).with_name("uv"), ROOT / ".venv/bin/uv"]
    found = next((str(path) for path in beside if path.exists()), None) or shutil.which("uv")
    if found is None:
        raise BuildError("uv is not there. `make build` brings it along.")
    return found


def _check_machine(files: Sequence[Path], target: Target) -> None:
    """Whatever is compiled must be for the machine, and what names a Python for that one."""
    for path in files:
        if not target.is_elf:
            continue
        with path.open("rb") as file:
            head = file.read(20)
        if head.startswith(ELF) and int.from_bytes(head[18:20], "little") != target.machine:
            raise BuildError(f"{path} is compiled for another machine than {target.name}.")
        of_python = re.search(r"\.cpython-(\d)(\d+)", path.name)
        if of_python and target.platform and ".".join(of_python.groups()) != target.python:
            raise BuildError(f"{path} is compiled for another Python than {target.python}.")


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, ignore=NOT_OURS_TO_SHIP)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:.1f}"


if __name__ == "__main__":
    sys.exit(main())
