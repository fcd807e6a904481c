"""The quality report: one HTML file, drawings inline, nothing fetched; light and dark as the reader has it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.drawing import Axis, Line, bars, chart, histogram
from bootstrap.gates import key_of, unmeasured
from bootstrap.incumbent import compared, lost
from bootstrap.metrics import lorenz

if TYPE_CHECKING:
    from bootstrap.evaluate import Foretold, Trained
    from bootstrap.quality import Judged
    from bootstrap.windows import Part
    from schemas.records import Gate

F64 = npt.NDArray[np.float64]

CONTENDERS = (("", "folded in", 1), ("frozen_", "frozen", 2), ("popularity_", "popularity", 3))
_DEEP = 100


@dataclass(frozen=True, slots=True)
class About:
    """What stands on top: where the events came from, how many were read, and when the report was made (ms)."""

    source: str
    records: int
    told: str
    now_ms: int


def report(judged: Judged, about: About) -> str:
    """The page of an evaluation that has an `Examined`."""
    examined, metrics = judged.examined, judged.metrics
    assert examined is not None
    k, foretold, trained = int(metrics["k"]), examined.foretold, examined.trained
    parts = [
        _head(about, metrics, trained),
        _tiles(metrics, k),
        '<section class="grid">',
        _over_time(examined.windows, k),
        _depth(foretold, k),
        _concentration(foretold, metrics, k),
        _coverage(foretold, k),
        _norms("User vectors", trained.solved.vectors[np.diff(trained.users.history_start) > 0], "users", 1),
        _norms("Item vectors", trained.space.vectors, "items", 4),
        _losses(trained.losses),
        _segments(examined.segments, k),
        "</section>",
        _beside(metrics, k),
        _gates(judged.gates, metrics),
        _all(metrics),
        *(f'<p class="note">{escape(remark)}</p>' for remark in judged.remarks),
    ]
    body = "\n".join(part for part in parts if part)
    title = f"Quality of the factors, {_day(about.now_ms)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _head(about: About, metrics: dict[str, float], trained: Trained) -> str:
    items, users = len(trained.matrix.item_ids), int(np.count_nonzero(trained.users.events))
    projected = f", {trained.projected:,} of them projected from their attributes" if trained.projected else ""
    return (
        "<header><h1>Quality of the factors</h1>"
        f"<p>{escape(about.source)}: {about.records:,} records, {escape(about.told)}. A model of the older events "
        f"({users:,} users, {items:,} items{projected}, dimension {trained.space.dimension}) foretells "
        f"{int(metrics['scored_events']):,} of the {int(metrics['test_events']):,} newer positive ones, each before it "
        f"learns from it. {_moment(about.now_ms)}</p></header>"
    )


def _tiles(metrics: dict[str, float], k: int) -> str:
    popular = metrics["popularity_recall"]
    times = f"{metrics['recall'] / popular:.1f} times popularity" if popular else "popularity finds none"
    tiles = [
        (f"Recall@{k}", f"{metrics['recall']:.3f}", times),
        (f"NDCG@{k}", f"{metrics['ndcg']:.3f}", f"frozen {metrics['frozen_ndcg']:.3f}"),
        (f"MAP@{k}", f"{metrics['map']:.3f}", f"hit rate {metrics['hit_rate']:.2f} of the users"),
        ("New users", f"{metrics['new_users_recall']:.3f}", f"known ones {metrics['known_users_recall']:.3f}"),
        ("New items", f"{metrics['new_items_recall']:.3f}", f"of {int(metrics['new_items_events']):,} events"),
        ("Coverage", f"{metrics['coverage']:.0%}", f"of the items in some list of {k}"),
        ("Novelty", f"{metrics['novelty']:.1f}", f"bits; Gini of the lists {metrics['gini']:.2f}"),
    ]
    if "ann_recall" in metrics:
        tiles.append(("ANN index", f"{metrics['ann_recall']:.1%}", "of the exact lists' items, found by HNSW"))
    cells = "".join(
        f'<div class="tile"><h3>{escape(name)}</h3><b>{escape(value)}</b><span>{escape(more)}</span></div>'
        for name, value, more in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _figure(title: str, drawing: str, words: str) -> str:
    return f"<figure><h2>{escape(title)}</h2>{drawing}<figcaption>{escape(words)}</figcaption></figure>"


def _over_time(windows: list[Part], k: int) -> str:
    if not windows:
        return ""
    days = np.array([(part.start + part.end) / 2 for part in windows]) / 86_400_000
    lines = [
        Line(name, days, np.array([part.metrics[f"{prefix}recall"] for part in windows]), colour)
        for prefix, name, colour in CONTENDERS
    ]
    new = Line("share of new users", days, np.array([part.metrics["new_users"] for part in windows]), 0, second=True)
    events = int(np.median([part.events for part in windows]))
    axis = Axis("day (UTC)", dates=True), Axis(f"Recall@{k}", low=0), Axis("share of new users", low=0, high=1)
    return _figure(
        "Recall over time",
        chart([*lines, new], axis[0], axis[1], second=axis[2]),
        f"Windows of {events:,} events, each overlapping the next by half. Folded in: as the stream does, after each "
        "event. Dotted, on the right: how many of the events are of users without a history at the cut.",
    )


def _depth(foretold: Foretold, k: int) -> str:
    depth = np.arange(1, min(_DEEP, max(len(foretold.events), 1)) + 1, dtype=np.float64)
    lines = []
    for (_, name, colour), position in zip(CONTENDERS, foretold.positions().values(), strict=True):
        found = np.sort(position[foretold.scored])
        lines.append(Line(name, depth, np.searchsorted(found, depth, side="left") / max(len(found), 1), colour))
    return _figure(
        "Recall by length of the list",
        chart(lines, Axis("length of the list"), Axis("recall", low=0), mark=float(k)),
        f"The share of the events whose item is in a list of that length; the mark is at {k}.",
    )


def _concentration(foretold: Foretold, metrics: dict[str, float], k: int) -> str:
    places = np.bincount(foretold.lists[foretold.lists >= 0], minlength=len(foretold.events))
    lines = [
        Line("what is listed", *lorenz(places), 1),
        Line("what people did before the cut", *lorenz(foretold.events), 3),
        Line("all items alike", np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0, second=False, dotted=True),
    ]
    return _figure(
        "Concentration on items",
        chart(lines, Axis("share of the items, most frequent first", 0, 1), Axis("share of the whole", 0, 1)),
        f"The higher the curve, the fewer items share the places. The most popular hundredth has "
        f"{metrics['top_share']:.1%} of the places in lists of {k}.",
    )


def _coverage(foretold: Foretold, k: int) -> str:
    lists = foretold.lists[foretold.folded >= 0]
    if not len(lists):
        return ""
    first = np.full(len(foretold.events), np.iinfo(np.int64).max)
    number = np.repeat(np.arange(len(lists)), lists.shape[1])[(lists >= 0).ravel()]
    np.minimum.at(first, lists[lists >= 0], number)
    after = np.unique(np.linspace(1, len(lists), 200).round())
    share = np.searchsorted(np.sort(first), after - 1, side="right") / len(first)
    return _figure(
        "Coverage of the catalogue",
        chart([Line("", after, share, 1, filled=True)], Axis("lists shown"), Axis("share of the items", 0, 1)),
        f"How much of what the model knows has been in some list of {k}, as more and more lists are shown.",
    )


def _norms(title: str, vectors: npt.NDArray[np.float32], unit: str, colour: int) -> str:
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    length = length[np.isfinite(length)]
    if not len(length):
        return ""
    median, high = np.percentile(length, [50, 99]).tolist()
    return _figure(
        f"{title}: norms",
        histogram(length, Axis("Euclidean norm", low=0), Axis(unit, low=0), colour),
        f"{len(length):,} {unit}, median {median:.3g}, 99th percentile {high:.3g}, largest {length.max():.3g}; the "
        "last bar holds the longest half percent.",
    )


def _losses(losses: tuple[float, ...]) -> str:
    if not losses:
        return ""
    rounds = np.arange(1, len(losses) + 1, dtype=np.float64)
    last = _last_round(1 - losses[-1] / losses[-2]) if len(losses) > 1 and losses[-2] else ""
    return _figure(
        "Training",
        chart([Line("", rounds, np.array(losses), 1, dots=True)], Axis("round", whole=True), Axis("loss")),
        f"The loss after the item half-step of each round.{last}",
    )


def _last_round(share: float) -> str:
    """What the last round changed, as a share of the loss before it, in words."""
    if abs(share) < 0.0005:
        return " The last round changed it by less than 0.05%: more rounds would not help."
    if share < 0:
        return f" The last round raised it by {-share:.2%}: it swings about its lowest point."
    return (
        f" The last round lowered it by {share:.2%}: where that is much, more rounds (bootstrap.iterations) may help."
    )


def _segments(segments: list[Part], k: int) -> str:
    if len(segments) < 2:
        return ""
    rows = [
        (part.name, [part.metrics[f"{prefix}recall"] for prefix, _, _ in CONTENDERS], f"{part.events:,} events")
        for part in segments
    ]
    drawing = bars(rows, [(name, colour) for _, name, colour in CONTENDERS], Axis(f"Recall@{k}", low=0))
    return _figure("Segments", drawing, "By the attribute of the events' context that bootstrap.segment_by names.")


def _beside(metrics: dict[str, float], k: int) -> str:
    how, notes = compared(metrics), lost(metrics)
    table = ""
    if how:
        notes.insert(0, how)
        whose = "the active recipe" if metrics["active_retrained"] else "the active model"
        rows = "".join(
            f"<tr><td>{name}</td><td>{metrics[f'{prefix}_recall']:.4f}</td><td>{metrics[f'{prefix}_ndcg']:.4f}</td></tr>"
            for name, prefix in (("this model", "beside_active"), (whose, "active"))
        )
        table = f"<table><tr><th></th><th>Recall@{k}</th><th>NDCG@{k}</th></tr>{rows}</table>"
    if not notes:
        return ""
    words = "; ".join(notes)
    return (
        f'<section><h2>Beside the active model</h2><p class="note">{escape(words[0].upper() + words[1:])}.</p>'
        f"{table}</section>"
    )


def _gates(gates: list[Gate], metrics: dict[str, float]) -> str:
    rows = "".join(_gate(gate, unmeasured(gate.name, metrics)) for gate in gates)
    head = "<tr><th>gate</th><th>reached</th><th>bound</th><th></th></tr>"
    return f"<section><h2>Gates</h2><table>{head}{rows}</table></section>"


def _gate(gate: Gate, why: str) -> str:
    value, said = f"not measured: {why}" if why else f"{gate.value:.6g}", "passed" if gate.passed else "failed"
    cells = (key_of(gate), value, f"{gate.bound:.6g}", said)
    return f'<tr class="{said}">{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'


def _all(metrics: dict[str, float]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{value:.6g}</td></tr>" for name, value in sorted(metrics.items()))
    return f"<section><details><summary>All {len(metrics)} metrics</summary><table>{rows}</table></details></section>"


def _moment(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC."


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"


# Colours by number, so that a drawing names none: the reader's light or dark decides.
_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #5b6675; --rule: #dfe3e8;
  --c0: #8a94a3; --c1: #2563c9; --c2: #d97706; --c3: #0f8a6c; --c4: #8b46c1; --good: #0f8a6c; --bad: #c62f3b; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161c; --card: #1b212a; --ink: #e8ecf1; --soft: #9aa6b5; --rule: #323b47;
    --c0: #7d8896; --c1: #6ea8ff; --c2: #f5a742; --c3: #3fcfa8; --c4: #c08bf0; --good: #3fcfa8; --bad: #ff7a83; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 16px; margin: 0 0 8px; }
h3 { font-size: 13px; font-weight: 500; color: var(--soft); margin: 0; }
header p { color: var(--soft); max-width: 75ch; margin: 0 0 24px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(126px, 1fr)); gap: 12px; margin-bottom: 20px; }
.tile, figure, section > table { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 12px; line-height: 1.35; color: var(--soft); }
.grid { display: grid; gap: 16px; margin-bottom: 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); }
figure { margin: 0; padding: 16px 16px 12px; }
figcaption, .note { font-size: 13px; color: var(--soft); }
section > .note { margin: 0 0 8px; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .title { fill: var(--ink); }
table { border-collapse: separate; border-spacing: 0; width: 100%; margin-bottom: 28px; overflow: hidden; }
th, td { text-align: right; padding: 7px 14px; font-variant-numeric: tabular-nums; border-top: 1px solid var(--rule); }
tr:first-child > * { border-top: 0; }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere; }
.passed td:last-child { color: var(--good); } .failed td { color: var(--bad); font-weight: 600; }
summary { cursor: pointer; margin-bottom: 8px; color: var(--soft); }
@media print { body { background: #fff; } figure, table { break-inside: avoid; } }
"""
