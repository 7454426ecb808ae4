"""What is built for Lambda from any machine: for its Python and machine, small enough, always the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from local import build as building
from local.build import MEBIBYTE, ROOT, BuildError, Target, UnreachableError, build, locked, recipes

LAYERS = ("CoreLayer", "AgentsLayer")
PARTS = {"CoreLayer": "threadkeep", "AgentsLayer": "threadkeep_agents"}


def made(logical_id: str, target: Target, folder: Path) -> building.Artefact:
    try:
        return build(logical_id, target, folder / logical_id)
    except UnreachableError as error:
        pytest.skip(f"the wheels cannot be fetched: {error}")


def contents(folder: Path) -> Mapping[str, tuple[bytes, int, int]]:
    """Each file's bytes, mode and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode, int(path.stat().st_mtime))
        for path in _files(folder)
    }


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_both_layers_are_built_for_lambda_and_leave_room_below_its_limit(tmp_path: Path, architecture: str) -> None:
    """`build` itself refuses what is compiled for another machine or Python; here are some names of what it took."""
    target = Target.lambda_on(architecture)
    layers = {name: made(name, target, tmp_path) for name in LAYERS}

    assert sum(layer.size for layer in layers.values()) < 200 * MEBIBYTE
    assert layers["CoreLayer"].size < 60 * MEBIBYTE
    machine = {"arm64": "aarch64", "x86_64": "x86_64"}[architecture]
    core = layers["CoreLayer"].folder / "python"
    assert (core / "pydantic_core" / f"_pydantic_core.cpython-313-{machine}-linux-gnu.so").exists()
    for name, layer in layers.items():
        files = _files(layer.folder)
        assert layer.files == len(files)
        assert not {path.suffix for path in files} & building.UNUSED_ENDINGS
        assert {path.parts[0] for path in (file.relative_to(layer.folder) for file in files)} == {"python"}
        sources = {path.name for path in (ROOT / "layers").glob(f"*/{PARTS[name]}/*.py")}
        assert {path.name for path in (layer.folder / "python" / PARTS[name]).glob("*.py")} == sources
    # Lambda lays one layer over the other.
    names = [{str(path.relative_to(layer.folder)) for path in _files(layer.folder)} for layer in layers.values()]
    twice = names[0] & names[1]
    assert twice == set()


def test_the_same_sources_give_the_same_bytes_by_make_and_by_sam(tmp_path: Path) -> None:
    """What changes nothing must publish nothing."""
    target = Target.lambda_on("arm64")
    by_make = {name: made(name, target, tmp_path / "make") for name in ("CoreLayer", "ChatStreamFunction")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name, artefact in by_make.items():
        folder = tmp_path / "sam" / name
        makefile = ROOT / "layers/core/Makefile" if name == "CoreLayer" else ROOT / "Makefile"
        # As sam does it: in another folder, with the Makefile's own path.
        subprocess.run(
            ["make", "--silent", "--makefile", str(makefile), f"build-{name}"],
            cwd=tmp_path,
            env=os.environ | {"PATH": path, "ARTIFACTS_DIR": str(folder), "ARCH": "arm64"},
            capture_output=True,
            check=True,
        )
        assert contents(folder) == contents(artefact.folder)
    program = by_make["ChatStreamFunction"].folder / "run.sh"
    assert program.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("logical_id", sorted(set(recipes()) - set(LAYERS)))
def test_a_function_keeps_the_path_that_its_modules_are_imported_by(tmp_path: Path, logical_id: str) -> None:
    artefact = build(logical_id, Target.lambda_on("arm64"), tmp_path / logical_id)
    [folder] = (artefact.folder / "functions").iterdir()
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    assert names == {
        str(path.relative_to(ROOT / "functions" / folder.name))
        for path in (ROOT / "functions" / folder.name).rglob("*.py")
    }
    others = {path.name for path in artefact.folder.iterdir()} - {"functions"}
    assert others == {"ChatStreamFunction": {"run.sh"}, "MigrateFunction": {"sql"}}.get(logical_id, set())


def test_every_folder_of_functions_is_an_artefact() -> None:
    folders = {path.parent.name for path in (ROOT / "functions").glob("*/app.py")}
    names = {"".join(word.capitalize() for word in folder.split("_")) + "Function" for folder in folders}
    assert set(recipes()) == names | {*LAYERS, "ChatStreamFunction"}


def test_what_is_compiled_for_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(folder: Path, target: Target) -> None:
        head = b"\x7fELF\x02\x01\x01" + bytes(11) + (0x3E).to_bytes(2, "little")
        (folder / "library.so").write_bytes(head)

    monkeypatch.setattr(building, "recipes", lambda: {"Library": recipe})
    with pytest.raises(BuildError, match=r"library\.so is compiled for another machine than arm64"):
        build("Library", Target.lambda_on("arm64"), tmp_path / "arm")
    assert build("Library", Target.lambda_on("x86_64"), tmp_path / "intel").files == 1


def test_what_is_too_large_is_refused_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        building, "recipes", lambda: {"Large": lambda folder, _: (folder / "x").write_bytes(bytes(3 * MEBIBYTE))}
    )
    with pytest.raises(BuildError, match=r"Large has 3\.0 MiB, and may have 1\.0"):
        build("Large", Target.lambda_on("arm64"), tmp_path / "Large")


def test_what_is_not_in_the_template_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"Nothing is none of CoreLayer, AgentsLayer"):
        build("Nothing", Target.lambda_on("arm64"), tmp_path)


def test_the_layers_share_their_locks_versions() -> None:
    core, agents = (locked((ROOT / f"requirements/{name}.txt").read_text()) for name in ("core", "agents"))
    assert core.items() <= agents.items()
    assert all("--hash=sha256:" in requirement for requirement in agents.values())


def test_bytecode_is_made_by_lambdas_own_python_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(folder: Path, target: Target) -> None:
        (folder / "module.py").write_text("x = 1\n")
        building._compile(folder, target)

    monkeypatch.setattr(building, "recipes", lambda: {"Module": recipe})
    target = Target.lambda_on("arm64", has_bytecode=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"python3\.13 is not on the path"):
        build("Module", target, tmp_path / "Module")
    (tmp_path / "python3.13").symlink_to(sys.executable)
    if sys.version_info[:2] == (3, 13):
        assert build("Module", target, tmp_path / "Module").files == 2
        return
    with pytest.raises(BuildError, match=r"module\.cpython-\d+\.pyc is compiled for another Python than 3\.13"):
        build("Module", target, tmp_path / "Module")
