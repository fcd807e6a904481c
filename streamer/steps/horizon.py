"""What a worker knows of generations other than the one that a step serves."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field


@dataclass(slots=True)
class Horizon:
    """past: generations whose signals have no effect any more; coming: the one that is announced and not served yet.

    Whoever follows the announcements keeps it up to date, steps ask it. One that is in neither was announced a moment
    ago to another worker, or never: it is waited for, until somebody gives it up.
    """

    past: set[int] = field(default_factory=set)
    coming: int | None = None

    def beyond(self, generations: AbstractSet[int]) -> bool:
        """Is one of them still to come?"""
        return not generations <= self.past

    def give_up(self, generations: AbstractSet[int]) -> None:
        """Nobody will announce them; what is announced still comes."""
        self.past |= generations - {self.coming}
