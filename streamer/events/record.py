"""What a record must have to be read."""

from collections.abc import Sequence
from typing import Protocol


class Record(Protocol):
    """A Kafka record as it was fetched; aiokafka's ``ConsumerRecord`` is one."""

    @property
    def key(self) -> bytes | None:
        """The partitioning key: for an event, its user id."""

    @property
    def value(self) -> bytes | None:
        """The payload; None is Kafka's null."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Names and values, in the order sent; a name may come twice."""

    @property
    def timestamp(self) -> int:
        """The broker's, in milliseconds: bounds judged against it are the same at a replay."""

    @property
    def partition(self) -> int:
        """The partition that it lies in."""

    @property
    def offset(self) -> int:
        """Its place there."""
