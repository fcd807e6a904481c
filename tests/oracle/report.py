"""What a comparison looked at and what it found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

_SHOWN = 40


@dataclass(slots=True)
class Report:
    """``outcomes``: of each partition, the records by (outcome, reason). Counts say how much was compared."""

    outcomes: dict[int, Counter[tuple[str, str]]] = field(default_factory=dict)
    records: int = 0
    users: int = 0
    revisions: int = 0
    vectors: int = 0
    bitwise: int = 0
    worst_error: float = 0.0
    published: int = 0
    item_revisions: int = 0
    new_items: int = 0
    dead_letters: int = 0
    store_rows: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing was violated, and something was compared."""
        return not self.violations

    def found(self, line: str) -> None:
        """Note one violation."""
        self.violations.append(line)

    def totals(self) -> Counter[tuple[str, str]]:
        """The records of all partitions by (outcome, reason)."""
        return sum(self.outcomes.values(), Counter())

    def __str__(self) -> str:
        outcomes = ", ".join(
            f"{outcome}{'/' + reason if reason else ''} {count}"
            for (outcome, reason), count in sorted(self.totals().items())
        )
        lines = [
            f"{self.records} records: {outcomes or 'none'}",
            f"{self.users} users, {self.revisions} revisions, {self.published} published vectors compared",
            f"{self.item_revisions} item revisions compared",
            f"{self.dead_letters} dead letters, {self.store_rows} store rows compared",
            f"{self.vectors} solves: {self.bitwise} bitwise, worst relative error {self.worst_error:.1e}",
            *(f"VIOLATION {line}" for line in self.violations[:_SHOWN]),
        ]
        if len(self.violations) > _SHOWN:
            lines.append(f"... and {len(self.violations) - _SHOWN} more violations")
        lines.append("OK" if self.good else f"{len(self.violations)} violations")
        return "\n".join(lines)
