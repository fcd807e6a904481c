"""Progress: a bar for people at a terminal, lines for logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootstrap import progress

if TYPE_CHECKING:
    import pytest


def test_plain_lines_elsewhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on a terminal: a line now and then and one at the end, on standard error."""
    moments = iter([0.0, 1.0, 3.0, 3.5, 4.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(moments))
    with progress.shown("fitting", 4) as say:
        for done in (1, 2, 3, 4):
            say(done, f"loss {10 - done}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "fitting: 2 of 4, 3 s left loss 8",
        "fitting: 4 of 4, 0 s left loss 6",
    ]


def test_more_than_was_foreseen_is_no_negative_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A total may be an estimate."""
    moments = iter([0.0, 3.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(moments))
    with progress.shown("publishing", 4) as say:
        say(6, "")
    assert capsys.readouterr().err == "publishing: 6 of 6, 0 s left\n"


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the note and the count are in the bar."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.shown("fitting", 2) as say:
        say(2, "loss 6")
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "loss 6" in shown
