"""A request is new, a duplicate or a conflict."""

import numpy as np
import pytest

from schemas.outcomes import Outcome
from streamer.events.dedupe import judge_request

KEYS = {"keys": [7, 0, 9, 7], "fingerprints": [70, 0, 90, 71], "times": [100, 0, 200, 50]}


@pytest.mark.parametrize(
    ("request_key", "fingerprint", "live_from", "outcome"),
    [
        (7, 70, 100, Outcome.DUPLICATE),
        (7, 99, 100, Outcome.CONFLICT),
        (7, 70, 101, None),
        (7, 71, 100, Outcome.CONFLICT),
        (7, 71, 50, Outcome.DUPLICATE),
        (9, 90, 0, Outcome.DUPLICATE),
        (8, 70, 0, None),
    ],
)
def test_judgement(request_key: int, fingerprint: int, live_from: int, outcome: Outcome | None) -> None:
    """Only live keys count, and only the same payload makes a duplicate."""
    assert judge_request(request_key, fingerprint, live_from=live_from, **KEYS) is outcome


def test_arrays_will_do() -> None:
    """The columns of a row can be judged as they are."""
    columns = {name: np.array(values, np.uint64) for name, values in KEYS.items()}
    assert judge_request(9, 90, live_from=200, **columns) is Outcome.DUPLICATE


def test_columns_of_different_lengths_are_a_bug() -> None:
    """A row that lost part of a column is refused, not half read."""
    with pytest.raises(ValueError, match="zip"):
        judge_request(1, 1, keys=[2, 3], fingerprints=[1], times=[1, 2], live_from=0)
