"""What is popular: the number of events of each item up to now."""

from __future__ import annotations

from tests.bench.peers.events import F64, Split


class Popularity:
    """Knows nobody, so that the replay's own count stands in."""

    def fit(self, split: Split) -> None:
        """Nothing to fit."""

    def scores(self, user: int) -> F64 | None:
        """Nothing of anybody."""
        return None

    def learn(self, user: int, item: int) -> None:
        """The replay counts."""
