"""A seeded stream of hostile events: duplicates, conflicts, late, filtered, suppressing and malformed ones.

The same seed and clock give the same stream. What each event must end in is for the oracle to say.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Headers = tuple[tuple[str, bytes], ...]
_HOUR, _DAY = 3_600_000, 86_400_000
_POSITIVE = ("view", "click", "like", "cart", "watch_complete", "purchase")


@dataclass(frozen=True, slots=True)
class Sent:
    """One record to send; ``astray``: to another partition than its key's."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    astray: bool = False


class Events:
    """The stream; ``clock`` gives milliseconds since 1970, ``lag_ms`` is how late an event comes on average."""

    def __init__(
        self, seed: int, *, users: int, items: list[str], clock: Callable[[], int], lag_ms: int = 6 * _HOUR
    ) -> None:
        self._random = random.Random(seed)
        self._users, self._items, self._clock, self._lag_ms = users, items, clock, lag_ms
        self._recent: deque[dict[str, Any]] = deque(maxlen=200)
        self._count = 0
        self._kinds: dict[Callable[[], Sent], float] = {
            self._good: 66,
            self._suppressing: 6,
            self._duplicate: 8,
            self._conflict: 3,
            self._late: 3,
            self._filtered: 5,
            self._enveloped: 2,
            self._bad: 6,
            self._astray: 1,
        }

    def take(self, count: int) -> list[Sent]:
        """The next ``count`` records."""
        makers = self._random.choices(list(self._kinds), list(self._kinds.values()), k=count)
        return [make() for make in makers]

    # --- kinds --------------------------------------------------------------------------------------------

    def _event(self, **fields: object) -> dict[str, Any]:
        draw = self._random
        self._count += 1
        event: dict[str, Any] = {
            "request_id": f"r{self._count}",
            # A few users get most events, so that batches hold several of one user.
            "user_id": f"u{int(self._users * draw.random() ** 2)}",
            "item_id": draw.choice(self._items) if draw.random() < 0.97 else f"unknown-{draw.randrange(5)}",
            "event_type": draw.choice(_POSITIVE),
            "timestamp": self._clock() - int(draw.expovariate(1 / self._lag_ms)) % (6 * _DAY),
        }
        if draw.random() < 0.2:
            event["value"] = draw.choice((0.5, 1, 2.0, 3.25, 1e-3))
        if draw.random() < 0.1:
            event["context"] = {
                "device": draw.choice(("tv", "phone")),
                "slot": draw.randrange(9),
                "live": None,
            }
        if draw.random() < 0.1:
            event |= {"consent": True, "traffic": "human", "schema_version": 1}
        return event | fields

    def _good(self) -> Sent:
        event = self._event()
        self._recent.append(event)
        return _sent(event)

    def _suppressing(self) -> Sent:
        event = self._event(event_type=self._random.choice(("hide", "dislike", "return")))
        if self._recent and self._random.random() < 0.7:
            known = self._random.choice(self._recent)
            shift = self._random.randrange(-_HOUR, _HOUR)
            event |= {
                "user_id": known["user_id"],
                "item_id": known["item_id"],
                "timestamp": min(known["timestamp"] + shift, self._clock()),
            }
        self._recent.append(event)
        return _sent(event)

    def _duplicate(self) -> Sent:
        if not self._recent:
            return self._good()
        event = self._random.choice(self._recent)
        spelling = self._random.randrange(3)
        if spelling == 0:
            return _sent(event)
        if spelling == 1:  # the same event, spelled otherwise
            return _sent(dict(reversed(event.items())), indent=1)
        return self._enveloped(event)

    def _conflict(self) -> Sent:
        if not self._recent:
            return self._good()
        event = dict(self._random.choice(self._recent))
        return _sent(event | {"item_id": self._random.choice(self._items) + "x"})

    def _late(self) -> Sent:
        days = self._random.choice((8, 30, 80, 100))
        return _sent(self._event(timestamp=self._clock() - days * _DAY))

    def _filtered(self) -> Sent:
        why = ({"consent": False}, {"traffic": "bot"}, {"traffic": "internal"}, {"event_type": "report"})
        return _sent(self._event(**self._random.choice(why)))

    def _enveloped(self, event: dict[str, Any] | None = None) -> Sent:
        event = self._event() if event is None else event
        if self._random.random() < 0.5:
            headers = (("ce_specversion", b"1.0"), ("ce_id", b"e1"), ("traceparent", b"00-ab-cd-01"))
            return _sent(event, headers)
        structured = {
            "specversion": "1.0",
            "id": "e2",
            "type": "interaction",
            "source": "test",
            "data": event,
        }
        return Sent(event["user_id"].encode(), json.dumps(structured).encode())

    def _bad(self) -> Sent:
        draw = self._random
        event = self._event()
        key, text = event["user_id"].encode(), json.dumps(event)
        number = str(event["timestamp"])
        choices = [
            Sent(key, None),
            Sent(key, b""),
            Sent(None, None),
            Sent(key, b"{not json"),
            Sent(key, b'{"user_id": "\xff"}'),
            Sent(key, text.replace("request_id", "request_if").encode(), (("origin", b"app\x00"),)),
            Sent(key, text.replace(number, "1e999").encode()),
            Sent(key, text.replace(number, "NaN").encode()),
            Sent(key, text.replace(number, "9" * 30).encode()),
            Sent(key, text.replace(number, "true").encode()),
            Sent(key, text.encode() + b" " * 70_000),
            Sent(key, json.dumps(event | {"event_type": "wish", "value": -1}).encode()),
            Sent(key, json.dumps(event | {"value": 0}).encode()),
            Sent(key, json.dumps(event | {"context": {"deep": {}}}).encode()),
            Sent(key, json.dumps(event | {"timestamp": self._clock() + _HOUR}).encode()),
            Sent(key, b"[" * 1000 + b"]" * 1000),
            Sent(b"somebody else", text.encode()),
            Sent(None, text.encode()),
        ]
        return draw.choice(choices)

    def _astray(self) -> Sent:
        """Of a user nobody has seen, on a partition that is not the key's; some would be filtered too."""
        event = self._event(user_id=f"stranger-{self._count}")
        if self._random.random() < 0.4:
            event["traffic"] = "bot"
        return Sent(event["user_id"].encode(), json.dumps(event).encode(), astray=True)


def _sent(event: dict[str, Any], headers: Headers = (), indent: int | None = None) -> Sent:
    return Sent(event["user_id"].encode(), json.dumps(event, indent=indent).encode(), headers)
