"""Generations that are waited for, and those that are waited for no more."""

from __future__ import annotations

from streamer.steps.horizon import Horizon


def test_what_nobody_announces_is_given_up_and_what_is_announced_still_comes() -> None:
    """Loading can take longer than the patience for strangers: its signals would be lost for good."""
    horizon = Horizon(past={1}, coming=2)
    assert not horizon.beyond({1})
    assert horizon.beyond({1, 2, 3})
    horizon.give_up({1, 2, 3})
    assert not horizon.beyond({1, 3})
    assert horizon.beyond({2})
