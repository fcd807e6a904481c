"""Read RFC 3339 text as milliseconds since 1970."""

import re
from datetime import date

_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def rfc3339_millis(text: str) -> int | None:
    """Milliseconds since 1970 UTC, fractions of a millisecond cut off; None if the text is no RFC 3339 time.

    A leap second (``:60``) is the first second of the next minute, as in POSIX time.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    away = 0 if sign is None else int(offset_hours) * 60 + int(offset_minutes)
    if hour > 23 or minute > 59 or second > 60 or (sign and (int(offset_hours) > 23 or int(offset_minutes) > 59)):
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    minutes = days * 1440 + hour * 60 + minute + (away if sign == "-" else -away)
    return (minutes * 60 + second) * 1000 + int((fraction or "0")[:3].ljust(3, "0"))
