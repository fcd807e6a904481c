"""The command line: exit codes, one sentence an error, JSON where it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from typer.testing import CliRunner

from bootstrap.__main__ import app, main
from bootstrap.artifact import open_artifact
from bootstrap.served import Served
from ops.data import synthetic, write_ndjson
from schemas.records import Control
from tests.bootstrap.planted import EXPLICIT, planted
from tests.bootstrap.small import SHAPE

if TYPE_CHECKING:
    from tests.bootstrap.small import Made

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A quick fit, artifacts in the test's folder, nothing of the caller's environment."""
    for name in [name for name in os.environ if name.startswith("FACTORS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FACTORS_BOOTSTRAP__DIMENSION", "8")
    monkeypatch.setenv("FACTORS_BOOTSTRAP__ITERATIONS", "5")
    monkeypatch.setenv("FACTORS_BOOTSTRAP__ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("FACTORS_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")


@pytest.fixture(scope="module")
def recent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events up to now, the command's own clock's, so that none of them is in the future."""
    path = tmp_path_factory.mktemp("recent") / "events.ndjson"
    write_ndjson(path, synthetic.load(3, SHAPE).rebase(time.time_ns() // 1_000_000).events)
    return path


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command as `main` runs it."""
    monkeypatch.setattr(sys, "argv", ["bootstrap", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_fit_writes_an_artifact(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact opens, its manifest is what was printed, and no broker was needed."""
    code, out, _ = run(capsys, monkeypatch, "fit", "--events", str(made.events), "--json")
    assert code == 0
    said = orjson.loads(out)
    manifest, model = open_artifact(said["manifest"]["artifact"]["uri"])
    assert manifest.model_version == said["manifest"]["model_version"]
    assert len(model.item_ids) == manifest.counts["items"]
    assert sum(row["count"] for row in said["outcomes"]) == made.log.records


def test_evaluate_prints_a_table(
    recent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What became of the records, three lines to compare, and nothing written; with a gate failed, exit code 1."""
    broken = tmp_path / "broken.ndjson"
    broken.write_bytes(recent.read_bytes() + b"{\n")
    monkeypatch.setenv("FACTORS_BOOTSTRAP__SEGMENT_BY", "device")
    code, out, err = run(capsys, monkeypatch, "evaluate", "--events", str(broken))
    assert code == 0
    assert ", 1 dead_letter (not_json)" in out
    assert "no segments: no event has bootstrap.segment_by = 'device' in its context" in err
    assert "beside the active model" not in out
    monkeypatch.setenv("FACTORS_GATES__MIN_RECALL", "0.9")
    monkeypatch.setenv("FACTORS_GATES__MIN_SEGMENT_RECALL", "0.01")
    monkeypatch.setenv("FACTORS_BOOTSTRAP__ITERATIONS", "1")
    page = tmp_path / "report.html"
    code, out, err = run(capsys, monkeypatch, "evaluate", "--events", str(recent), "--report", str(page))
    assert code == 1
    assert "FAILED min_recall: 0." in out
    assert "FAILED min_segment_recall: not measured: no segment of bootstrap.segment_by has 50 scored events" in out
    assert "this model is not fit to be published: min_recall is 0." in err
    assert "min_recall" in page.read_text("utf-8")
    assert "Recall@10" in out
    assert "popularity" in out
    assert not (tmp_path / "artifacts").exists()


def test_evaluate_writes_a_report(
    recent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One file; the JSON beside it has windows, gates and outcomes; where nothing was foretold there is no report."""
    page = tmp_path / "report.html"
    code, out, err = run(capsys, monkeypatch, "evaluate", "--events", str(recent), "--report", str(page), "--json")
    assert code == 0
    said = orjson.loads(out)
    assert len(said["windows"]) == 20
    assert {"recall", "suppressed_share", "item_norm_max", "user_coverage"} <= said["metrics"].keys()
    assert all(gate["passed"] for gate in said["gates"])
    assert f"report written to {page}" in err
    assert page.read_text("utf-8").startswith("<!doctype html>")
    few = tmp_path / "few.ndjson"
    few.write_bytes(b"\n".join(recent.read_bytes().splitlines()[:1]))
    none = tmp_path / "none.html"
    code, _, err = run(capsys, monkeypatch, "evaluate", "--events", str(few), "--report", str(none))
    assert code == 4
    assert "nothing to report: too few events" in err
    assert not none.exists()


@pytest.mark.parametrize(("place", "why"), [("nowhere/all.html", "there is no folder"), ("", "it is a folder")])
def test_a_report_that_cannot_be_written_is_told_before_the_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, why: str
) -> None:
    """Before anything is read: these events are not there at all."""
    code, _, err = run(capsys, monkeypatch, "evaluate", "--events", "/nowhere", "--report", str(tmp_path / place))
    assert (code, "cannot be written: " + why in err) == (4, True)


def test_what_is_of_rankings_is_refused_for_ratings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the use, told before anything is read."""
    monkeypatch.setenv("FACTORS_POLICY__FEEDBACK", "explicit")
    for arguments in (["evaluate", "--report", "q.html"], ["search"]):
        code, _, err = run(capsys, monkeypatch, *arguments, "--events", "/nowhere")
        assert (code, "explicit" in err) == (2, True)


def test_a_few_events_do_not_replace_a_model(
    recent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A first model of them says that nothing was measured; the next one is refused, with the reason and what to do."""
    few = tmp_path / "few.ndjson"
    few.write_bytes(b"\n".join(recent.read_bytes().splitlines()[:3]))
    code, out, _ = run(capsys, monkeypatch, "fit", "--events", str(few))
    assert code == 0
    assert "not measured: how well it foretells, 0 events scored" in out
    assert "recall" not in out
    monkeypatch.setenv("FACTORS_GATES__MIN_RECALL", "0.1")
    code, out, err = run(capsys, monkeypatch, "fit", "--events", str(few), "--dry-run")
    assert code == 1
    assert "FAILED min_recall: not measured: 0 events scored" in out
    monkeypatch.delenv("FACTORS_GATES__MIN_RECALL")
    code, out, _ = run(capsys, monkeypatch, "fit", "--events", str(recent), "--json")
    parent = orjson.loads(out)["manifest"]["artifact"]["uri"]
    again = ["--events", str(few), "--parent", parent]
    code, out, err = run(capsys, monkeypatch, "fit", *again, "--dry-run")
    assert code == 1
    assert "recall_over_active not measured: 0 events scored, 50 are needed (train on more events, or set" in err
    assert "items_over_active is 0.0" in err
    assert " of the active model's " in out
    assert run(capsys, monkeypatch, "evaluate", *again)[0] == 1


def test_other_feedback_than_the_active_ones_is_told_before_the_training(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read: these events are not there at all."""
    active = Control("activate", made.manifest.model_version, 1, "factors.item-factors")
    known = Served({made.manifest.model_version: made.manifest}, active)
    monkeypatch.setattr("bootstrap.served.expect_topics", lambda settings: ({}, known))
    monkeypatch.setenv("FACTORS_POLICY__FEEDBACK", "explicit")
    code, _, err = run(capsys, monkeypatch, "run", "--events", "/nowhere")
    assert (code, "is of explicit feedback, the active" in err) == (1, True)


def test_ratings_that_are_all_alike_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Events without a value among them: their model would be zeros, and as good as biases alone."""
    monkeypatch.setenv("FACTORS_POLICY__FEEDBACK", "explicit")
    path, now = tmp_path / "ratings.ndjson", time.time_ns() // 1_000_000
    for value in (None, 4.0):
        given = {} if value is None else {"value": value}
        events = [{**one, **given} for one in planted(now)]
        if value is None:
            events = [{name: part for name, part in one.items() if name != "value"} for one in events]
        path.write_bytes(b"\n".join(map(orjson.dumps, events)))
        code, out, err = run(capsys, monkeypatch, "fit", "--events", str(path))
        assert (code, out) == (4, "")
        if value is None:
            assert "(set_aside)" in err
            assert "an event without a `value` is set aside" in err
        else:
            assert f"every rating in {path} is {value:g}, and equal ratings teach nothing" in err


def test_the_configuration_can_be_named_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `streamer`; what stands behind the command wins."""
    code, _, err = run(capsys, monkeypatch, "--config", "/first.toml", "fit")
    assert (code, "/first.toml: cannot be read" in err) == (2, True)
    code, _, err = run(capsys, monkeypatch, "--config", "/first.toml", "fit", "--config", "/second.toml")
    assert (code, "/second.toml: cannot be read" in err) == (2, True)
    assert run(capsys, monkeypatch, "fit", "--events", "/nowhere")[0] == 4


def test_ratings_have_a_table_of_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error beside that of biases alone, held to its gate."""
    for name, value in EXPLICIT.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "ratings.ndjson"
    path.write_bytes(b"\n".join(map(orjson.dumps, planted(time.time_ns() // 1_000_000))))
    code, out, _ = run(capsys, monkeypatch, "evaluate", "--events", str(path))
    assert code == 0
    assert "RMSE" in out
    assert "passed rmse_over_biases" in out


def test_a_model_below_its_parent_ends_with_1(
    recent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gate, value and bound on standard error; a parent whose artifact is gone is a remark, and bars nothing."""
    code, out, _ = run(capsys, monkeypatch, "fit", "--events", str(recent), "--json")
    assert code == 0
    parent = orjson.loads(out)["manifest"]["artifact"]["uri"]
    again = ["--events", str(recent), "--parent", parent]
    code, out, _ = run(capsys, monkeypatch, "evaluate", *again)
    assert code == 0
    assert "that the active model has seen, so its recipe was trained anew on what came before them: Recall@10" in out
    assert "are not in this one" not in out
    monkeypatch.setenv("FACTORS_GATES__RECALL_OVER_ACTIVE", "1.5")
    monkeypatch.setenv("FACTORS_BOOTSTRAP__ARTIFACTS", str(tmp_path / "second"))
    code, _, err = run(capsys, monkeypatch, "fit", *again)
    assert code == 1
    assert "is not fit to be published: recall_over_active is 0." in err
    assert "is the bound" in err


def test_a_bound_on_an_index_needs_the_index(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that cannot be judged must not pass; without the bound its absence is a remark."""
    from bootstrap import ann

    monkeypatch.setattr(ann, "_library", lambda: None)
    code, _, err = run(capsys, monkeypatch, "evaluate", "--events", str(made.events))
    assert code == 0
    assert "no recall of an index: usearch is not installed" in err
    monkeypatch.setenv("FACTORS_GATES__MIN_ANN_RECALL", "0.9")
    code, _, err = run(capsys, monkeypatch, "fit", "--events", str(made.events))
    assert code == 4
    assert "gates.min_ann_recall cannot be judged: usearch is not installed" in err


def test_dry_run_writes_nothing(
    recent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All the work, no folder."""
    code, out, _ = run(capsys, monkeypatch, "fit", "--events", str(recent), "--dry-run")
    assert code == 0
    assert "passed recall_over_popularity: 0." in out
    assert not (tmp_path / "artifacts").exists()


def test_a_model_below_its_gates_ends_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    """The reason is on standard error; the artifact is kept for a look."""
    monkeypatch.setenv("FACTORS_POLICY__NORM_CAP", "1e-3")
    code, _, err = run(capsys, monkeypatch, "fit", "--events", str(made.events))
    assert code == 1
    assert "is not fit to be published: policy.norm_cap is" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fit", "--events", "/nowhere/at/all"], 4, "cannot be read"),
        (["publish", "/nowhere/at/all"], 4, "manifest.json in /nowhere/at/all is missing"),
        (["run"], 3, "no broker answers at 127.0.0.1:1"),
        (["fit"], 3, "no broker answers at 127.0.0.1:1"),
        (["fit", "--config", "/nowhere.toml"], 2, "/nowhere.toml"),
        (["fit", "--engine", "flink"], 2, "flink"),
        (["run", "--every", "soon"], 2, "is no time"),
        (["run", "--on-drift", "--min-interval", "0"], 2, "is no time"),
        (["run", "--on-drift", "--events", "x"], 2, "read the topic"),
        (["run", "--min-interval", "5m"], 2, "only --on-drift has one"),
        (["run", "--every", "1h", "--min-interval", "5m"], 2, "only --on-drift has one"),
        (["run", "--rounds", "2"], 2, "goes with --every or --on-drift"),
        (["run", "--every", "1h", "--rounds", "1"], 3, "round 1 published nothing: looking at the topics failed"),
    ],
)
def test_mistakes_are_one_sentence_and_a_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    """2 configuration, 3 broker, 4 data; never a stack trace."""
    ended, out, err = run(capsys, monkeypatch, *arguments)
    assert ended == code
    assert words in err
    assert "Traceback" not in err
    assert out == ""


def test_all_configuration_mistakes_come_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are listed before any file or broker is touched."""
    (tmp_path / "f.toml").write_text("[bootstrap]\ndimension = 0\n[policy]\nalpa = 1\n")
    code, _, err = run(capsys, monkeypatch, "run", "--config", str(tmp_path / "f.toml"))
    assert code == 2
    assert "bootstrap.dimension" in err or "alpa" in err
    assert "alpha" in err


def test_help_names_every_command() -> None:
    """`--help` is the map."""
    done = CliRunner().invoke(app, ["--help"])
    for name in ("fit", "evaluate", "publish", "run"):
        assert name in done.stdout


def test_it_runs_as_a_module() -> None:
    """``python -m bootstrap`` is the same command."""
    done = subprocess.run(
        [sys.executable, "-m", "bootstrap", "fit", "--events", "/nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr == "/nowhere cannot be read: No such file or directory.\n"
