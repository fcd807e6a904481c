"""What can end a command, by whose move it is next; each class has its exit code (contract: 0 done, 1 to 4).

The message is for an operator: one sentence that says what failed, where, and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class FactorsError(Exception):
    """The work cannot go on; the message says why and what to do."""

    exit_code = 1


class CheckFailed(FactorsError):  # a check that says no is an answer, not an error
    """A check was made and said no."""

    exit_code = 1


class BrokerError(FactorsError):
    """Kafka cannot be reached, refuses us, or lacks a topic."""

    exit_code = 3


class DataError(FactorsError):
    """A file, an artifact or a record is missing, damaged or not what it claims to be."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with the configuration.

    source: the file with its line, or the environment variable; key: the dotted key, "" for the whole source;
    value: what stands there, as text and without secrets, None where there is no value to show.
    """

    source: str
    key: str
    value: str | None
    message: str

    def __str__(self) -> str:
        setting = self.key if self.value is None else f"{self.key} = {self.value}"
        return f"{self.source}: {setting}: {self.message}" if setting else f"{self.source}: {self.message}"


class ConfigError(FactorsError):
    """The configuration is wrong; lists every mistake, not just the first."""

    exit_code = 2

    def __init__(self, message: str = "", mistakes: Sequence[Mistake] = ()) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        heading = message or f"the configuration has {count} mistake{'s' if count != 1 else ''}:"
        super().__init__("\n".join([heading, *(f"  {mistake}" for mistake in self.mistakes)]))
