"""What reading a record can end in beside an `Interaction`: one of two values, never an exception."""

from dataclasses import dataclass

from schemas.outcomes import Reason


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong at one JSON path, such as ``$.value``; it quotes excerpts of the record at most."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record for the dead letters: the first reason that applies, and every error found."""

    reason: Reason
    errors: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class Filtered:
    """A good record that must have no effect."""

    reason: Reason
