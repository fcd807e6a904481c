"""The tool files: what is installed is locked, what is shipped is whole, what is listed exists."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("base.txt", "all.txt", "uv.txt")


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+==\S+)((?: ;[^\\\n]*)?(?: \\\n +--hash=\S+)+)$", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_lock_names_a_place(name: str) -> None:
    """Nobody's registry and nobody's folder: versions and SHA-256 only."""
    text = (ROOT / "requirements" / name).read_text("utf-8")
    pins = _pins(name)
    assert len(pins) == len(re.findall(r"^[a-z0-9.-]+==", text, re.MULTILINE)) > 0
    assert all("--hash=sha256:" in hashes for hashes in pins.values())
    assert "://" not in text
    assert "/root/" not in text
    assert "--index" not in text


def test_the_locks_agree_and_hold_every_direct_dependency() -> None:
    """What runs in the image is what was tested."""
    assert set(_pins("base.txt")) <= set(_pins("all.txt"))
    assert set(_pins("uv.txt")) <= set(_pins("all.txt"))
    locked = {pin.split("==")[0] for pin in _pins("all.txt")}
    project = _project()["project"]
    # Spark is half a gigabyte that comes as source, and whoever has a cluster has its version.
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "spark"]
    direct = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[\[<>=;~! ]", line, maxsplit=1)[0].lower() for line in direct}
    assert names <= locked


def test_make_alone_lists_the_targets_of_the_contract() -> None:
    """Somebody new types `make` and sees what there is."""
    listed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "bench", "chaos", "lint", "clean"):
        assert f"make {target} " in listed


def test_a_python_that_will_not_do_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Too old, and missing: each is said before anything is made."""
    for file in ("Makefile", "pyproject.toml", "requirements/all.txt", "requirements/uv.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\nexit 1\n', "utf-8")
    old.chmod(0o755)
    for python, said in ((str(old), "Python 3.9.1 is not Python 3.11 to 3.13"), ("no-such", "was not found")):
        made = subprocess.run(
            ["make", "-C", str(tmp_path), f"PYTHON={python}", "install"],
            check=False,
            capture_output=True,
            text=True,
        )
        assert made.returncode != 0
        assert said in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_the_linters_and_the_tests() -> None:
    """The script is executable and ends in the two commands of the contract."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o100
    assert script.read_text("utf-8").rstrip().endswith("make lint test")


@pytest.mark.slow
def test_the_wheel_ships_the_three_packages_with_their_schemas(tmp_path: Path) -> None:
    """Code and data files, and neither tests nor tools."""
    source = tmp_path / "source"
    for package in ("schemas", "streamer", "bootstrap"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"schemas", "streamer", "bootstrap"}
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "schemas").rglob("*.json")}
    assert shipped <= set(names)
