"""Small charts as SVG text: lines, a histogram, bars. Colours are CSS variables ``--c0`` to ``--c4`` of the page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

F64 = npt.NDArray[np.float64]

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 34, 46
_SECOND = 52  # more room on the right for a second axis
_BINS = 40
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Axis:
    """A title with its unit; low and high: None to take them from what is drawn. dates: values are days since 1970."""

    title: str
    low: float | None = None
    high: float | None = None
    dates: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """x, y: (n,); colour: a number; second: belongs to the second axis, and is dotted."""

    name: str
    x: F64
    y: F64
    colour: int
    second: bool = False
    dotted: bool = False
    dots: bool = False
    filled: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values low to high on pixels start to end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def chart(lines: Sequence[Line], x: Axis, y: Axis, *, second: Axis | None = None, mark: float | None = None) -> str:
    """Lines over one x axis; ``mark``: an x to draw an upright at."""
    right = _WIDTH - _RIGHT - (_SECOND if second else 0)
    across = _scale(x, [line.x for line in lines], _LEFT, right, tight=True)
    up = _scale(y, [line.y for line in lines if not line.second], _HEIGHT - _BOTTOM, _TOP)
    out = [_frame(x, y, across, up, right)]
    if second is not None:
        other = _scale(second, [line.y for line in lines if line.second], _HEIGHT - _BOTTOM, _TOP)
        values = _ticks(other.low, other.high, 4)
        out += [_text(right + 8, other(value) + 4, _number(value), "start") for value in values]
        out.append(_text(_WIDTH - 10, (_TOP + _HEIGHT - _BOTTOM) / 2, second.title, "middle", turn=90, title=True))
    if mark is not None:
        at = across(mark)
        out.append(f'<path d="M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="var(--soft)" stroke-dasharray="2 4"/>')
    out += [_line(line, across, other if second is not None and line.second else up) for line in lines]
    legend = [(line.name, line.colour, line.second or line.dotted) for line in lines if line.name]
    return _svg([*out, _legend(legend)], _told(x, y, lines))


def histogram(values: F64, x: Axis, y: Axis, colour: int) -> str:
    """How many of ``values`` (n,) lie in each of equal bins; the farthest half percent is in the last one."""
    low = x.low if x.low is not None else float(values.min())
    high = max(float(np.percentile(values, 99.5)), low + 1e-9)
    counts, edges = np.histogram(np.clip(values, low, high), _BINS, (low, high))
    across = _Scale(low, high, _LEFT, _WIDTH - _RIGHT)
    up = _scale(y, [counts.astype(np.float64)], _HEIGHT - _BOTTOM, _TOP)
    out = [_frame(x, y, across, up, _WIDTH - _RIGHT)]
    for count, left, right in zip(counts.tolist(), edges.tolist(), edges[1:].tolist(), strict=False):
        top, at = up(count), across(left)
        out.append(
            f'<rect x="{at + 0.5:.1f}" y="{top:.1f}" width="{across(right) - at - 1:.1f}" '
            f'height="{_HEIGHT - _BOTTOM - top:.1f}" fill="var(--c{colour})" opacity=".85">'
            f"<title>{count:,} from {left:.3g} to {right:.3g}</title></rect>"
        )
    return _svg(out, f"Histogram of {x.title}, {len(values):,} {y.title}")


def bars(rows: Sequence[tuple[str, Sequence[float], str]], series: Sequence[tuple[str, int]], x: Axis) -> str:
    """Bars in groups: a name, a value of each series, and a note; series: name and colour."""
    left, right, group = 150, _WIDTH - 100, 14 * len(series) + 12
    height = _TOP + group * len(rows) + _BOTTOM
    across = _scale(x, [np.array([value for _, values, _ in rows for value in values])], left, right)
    out = []
    for value in _ticks(across.low, across.high, 5):
        at = across(value)
        out.append(f'<path d="M{at:.1f} {_TOP}V{height - _BOTTOM}" stroke="var(--rule)"/>')
        out.append(_text(at, height - _BOTTOM + 18, _number(value), "middle"))
    for number, (name, values, note) in enumerate(rows):
        top = _TOP + number * group + 6
        middle = top + 7 * len(series) + 4
        out.append(_text(left - 10, middle, name if len(name) < 22 else f"{name[:20]}…", "end", title=True))
        out.append(_text(right + 10, middle, note, "start"))
        for at, (value, (label, colour)) in enumerate(zip(values, series, strict=True)):
            width = across(value) - left
            out.append(
                f'<rect x="{left}" y="{top + 14 * at}" width="{width:.1f}" height="12" rx="2" '
                f'fill="var(--c{colour})"><title>{escape(name)}, {escape(label)}: {value:.4f}</title></rect>'
            )
    out.append(_text((left + right) / 2, height - 8, x.title, "middle", title=True))
    return _svg([*out, _legend([(name, colour, False) for name, colour in series])], f"{x.title} by segment", height)


def _scale(axis: Axis, values: Sequence[F64], start: float, end: float, *, tight: bool = False) -> _Scale:
    finite = np.concatenate([*values, np.zeros(0)])
    finite = finite[np.isfinite(finite)]
    low = axis.low if axis.low is not None else float(finite.min(initial=np.inf)) if len(finite) else 0.0
    high = axis.high if axis.high is not None else float(finite.max(initial=-np.inf)) if len(finite) else 1.0
    if high <= low:
        high = low + (abs(low) * 0.1 or 1.0)
    if not tight:
        step = _step(low, high, 5)
        low = low if axis.low is not None else floor(low / step) * step
        high = high if axis.high is not None else ceil(high / step) * step
    return _Scale(low, high, start, end)


def _step(low: float, high: float, count: int) -> float:
    """A round number that goes into the span about ``count`` times."""
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    step = max(_step(low, high, count), 1.0 if whole else 0.0)
    first = ceil(low / step - 1e-9)
    last = floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _frame(x: Axis, y: Axis, across: _Scale, up: _Scale, right: float) -> str:
    """Grid, numbers and titles of both axes."""
    out, bottom = [], _HEIGHT - _BOTTOM
    for value in _ticks(up.low, up.high, 5):
        at = up(value)
        out.append(f'<path d="M{_LEFT} {at:.1f}H{right:.1f}" stroke="var(--rule)"/>')
        out.append(_text(_LEFT - 8, at + 4, _number(value), "end"))
    for value in _ticks(across.low, across.high, 5, whole=x.whole or x.dates):
        words = f"{datetime.fromtimestamp(value * 86_400, UTC):%d %b %Y}" if x.dates else _number(value)
        out.append(_text(across(value), bottom + 18, words, "middle"))
        out.append(f'<path d="M{across(value):.1f} {bottom}v5" stroke="var(--soft)"/>')
    out.append(f'<path d="M{_LEFT} {bottom}H{right:.1f}" stroke="var(--soft)"/>')
    out.append(_text((_LEFT + right) / 2, _HEIGHT - 8, x.title, "middle", title=True))
    out.append(_text(14, (_TOP + bottom) / 2, y.title, "middle", turn=-90, title=True))
    return "".join(out)


def _line(line: Line, across: _Scale, up: _Scale) -> str:
    points = [f"{across(x):.1f} {up(y):.1f}" for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True)]
    if not points:
        return ""
    path, colour = "M" + "L".join(points), f"var(--c{line.colour})"
    dash = ' stroke-dasharray="3 4"' if line.second or line.dotted else ""
    width = 1.5 if dash else 2.25
    out = f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"{dash}/>'
    if line.filled:
        base, ends = up(up.low), (points[0].split()[0], points[-1].split()[0])
        out += f'<path d="{path}L{ends[1]} {base:.1f}L{ends[0]} {base:.1f}Z" fill="{colour}" opacity=".15"/>'
    if line.dots or len(points) == 1:
        out += "".join(
            f'<circle cx="{point.split()[0]}" cy="{point.split()[1]}" r="3" fill="{colour}"/>' for point in points
        )
    return out


def _legend(entries: Sequence[tuple[str, int, bool]]) -> str:
    out, at = [], float(_LEFT)
    for name, colour, dotted in entries:
        dash = ' stroke-dasharray="3 4"' if dotted else ""
        out.append(f'<path d="M{at:.0f} 14h18" stroke="var(--c{colour})" stroke-width="3"{dash}/>')
        out.append(_text(at + 23, 18, name, "start"))
        at += 23 + 6.6 * len(name) + 16
    return "".join(out)


def _text(x: float, y: float, words: str, anchor: str, *, turn: int = 0, title: bool = False) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    kind = ' class="title"' if title else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}{turned}>{escape(words)}</text>'


def _number(value: float) -> str:
    """Short, for a tick: 0.05, 20, 1,500, 20k, 12M."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    if size >= 1_000:
        return f"{value:,.0f}"
    return f"{round(value, 10):.4g}"


def _told(x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """For who cannot see it: what is drawn, and where each line ends."""
    ends = [f"{line.name or y.title} ends at {line.y[-1]:.4g}" for line in lines if len(line.y)]
    return f"{y.title} by {x.title}: {'; '.join(ends)}"


def _svg(parts: Sequence[str], label: str, height: int = _HEIGHT) -> str:
    box = f"0 0 {_WIDTH} {height}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
