"""The report: whole, self-contained, escaped, and drawn by a real browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from bootstrap.drawing import Axis, Line, bars, chart, histogram
from bootstrap.job import Lineage, recipe
from bootstrap.quality import Judged, judged
from bootstrap.report import About, _last_round, report
from schemas.records import Gate
from tests.bootstrap.small import KEY, NOW_MS, quiet, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bootstrap.small import Made

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ABOUT = About("a <script>alert(1)</script> & more", 6_000, "6,000 applied", NOW_MS)
TITLES = (
    "Recall over time",
    "Recall by length of the list",
    "Concentration on items",
    "Coverage of the catalogue",
    "User vectors: norms",
    "Item vectors: norms",
    "Training",
    "Segments",
    "Gates",
)


@pytest.fixture(scope="module")
def found(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """An evaluation by segment; every event says its device."""
    import msgspec

    log = made.log
    named = [
        msgspec.structs.replace(event, context={"device": ("phone", "<desk> & chair")[number % 2]})
        for number, event in enumerate(log.events)
    ]
    settings = settings_of(tmp_path_factory.mktemp("report"), FACTORS_BOOTSTRAP__SEGMENT_BY="device")
    return judged(settings, replace(log, events=named), recipe(settings), Lineage(KEY, None), quiet)


class Strict(HTMLParser):
    """Every tag closed in its order; collects headings and what refers to somewhere else."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.refers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.refers += [f"{tag} {name}={value}" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        assert tag not in {"script", "link", "img", "iframe"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_the_page_is_whole_and_fetches_nothing(found: Judged) -> None:
    """Every drawing is there and is good XML; what came from outside is escaped."""
    page = report(found, ABOUT)
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert parser.refers == []
    assert [title for title in TITLES if title not in parser.headings] == []
    assert "url(" not in page
    assert "<script" not in page
    assert "a &lt;script&gt;" in page
    assert "<desk>" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 8
    for drawing in drawings:
        root = ET.fromstring(drawing)  # noqa: S314 - our own
        words = [text.text for text in root.iter("text")]
        assert len([text for text in root.iter("text") if text.get("class") == "title"]) >= 2 or "phone" in words
        assert root.get("aria-label")
        assert "nan" not in drawing.lower().replace("finance", "")
        assert "inf" not in re.sub(r">[^<]*<|aria-label=\"[^\"]*\"", "", drawing)


def test_numbers_on_the_page_are_those_of_the_evaluation(found: Judged) -> None:
    """Tiles, gates and the table of all metrics; a gate that failed says so."""
    failing = [*found.gates, Gate("min_recall", 0.9, 0.1, False)]
    beside = {"active_recall": 0.2, "active_ndcg": 0.1, "beside_active_recall": 0.25, "beside_active_ndcg": 0.125}
    metrics = {**found.metrics, **beside, "active_events": 321.0, "active_retrained": 0.0}
    page = report(replace(found, gates=failing, metrics=metrics, remarks=["left <out>"]), ABOUT)
    assert f"<b>{found.metrics['recall']:.3f}</b>" in page
    assert '<tr class="failed"><td>min_recall</td><td>0.1</td><td>0.9</td><td>failed</td></tr>' in page
    assert page.count('class="passed"') == len(found.gates)
    assert "<td>segment.phone.recall</td>" in page
    assert "<td>the active model</td><td>0.2000</td>" in page
    assert "left &lt;out&gt;" in page
    assert "Beside the active model" not in report(found, ABOUT)


def test_what_was_not_measured_and_what_is_lost_are_told(found: Judged) -> None:
    """No value stands where there is none, and no comparison where hardly anything was compared."""
    lost = {"active_items": 1_218.0, "active_items_kept": 604.0, "active_users": 9.0, "active_users_kept": 9.0}
    few = {"active_recall": 0.2, "beside_active_recall": 0.2, "active_events": 3.0, "active_retrained": 1.0}
    failing = [Gate("recall_over_active", 0.1, 0.2, False)]
    page = unescape(report(replace(found, gates=failing, metrics={**found.metrics, **few, **lost}), ABOUT))
    assert "614 of the active model's 1,218 items are not in this one." in page
    assert "users are not in this one" not in page
    assert "<td>recall_over_active</td><td>not measured: 3 events scored, 50 are needed</td>" in page
    assert "<td>the active recipe</td>" not in page


@pytest.mark.parametrize(
    ("share", "words"), [(-1e-5, "less than 0.05%"), (0.02, "lowered it by 2.00%"), (-0.02, "raised it by 2.00%")]
)
def test_the_last_round_is_explained(share: float, words: str) -> None:
    """No "lowered by -0.00%"."""
    assert words in _last_round(share)


@pytest.mark.parametrize(
    "values", [np.zeros(1), np.zeros(5), np.full(3, 1e-9), np.array([1e12, 2e12]), np.array([-3.0, 4.0, np.nan])]
)
def test_odd_values_can_be_drawn(values: np.ndarray) -> None:
    """One point, all alike, tiny, huge, below 0: always an SVG with ticks in its box."""
    finite = values[np.isfinite(values)]
    x = np.arange(len(finite), dtype=np.float64)
    for drawing in (
        chart([Line("a", x, finite, 1)], Axis("x"), Axis("y")),
        chart([], Axis("x"), Axis("y")),
        histogram(finite, Axis("x"), Axis("y"), 1),
        bars([("a", finite.tolist(), "b")], [("c", 1)] * len(finite), Axis("x", low=min(0.0, finite.min()))),
    ):
        root = ET.fromstring(drawing)  # noqa: S314 - our own
        width = float((root.get("viewBox") or "").split()[2])
        places = [float(text.get("x") or "nan") for text in root.iter("text")]
        assert all(0 <= place <= width for place in places)


MEASURE = """<script>
const out = { background: getComputedStyle(document.body).backgroundColor, wide: document.documentElement.scrollWidth,
  drawings: 0, clipped: [] };
for (const svg of document.querySelectorAll("svg")) {
  const box = svg.getBoundingClientRect();
  out.drawings += box.width > 300 && box.height > 100;
  for (const text of svg.querySelectorAll("text")) {
    const at = text.getBoundingClientRect();
    if (at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1)
      out.clipped.push(text.textContent);
  }
}
document.body.dataset.found = JSON.stringify(out);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
@pytest.mark.parametrize(("dark", "width"), [(False, 1240), (True, 1240), (False, 500)])
def test_a_browser_draws_it(found: Judged, tmp_path: Path, dark: bool, width: int) -> None:
    """Laid out for wide and narrow, light and dark: every drawing has room, and no words are cut off."""
    page = tmp_path / "report.html"
    page.write_text(report(found, ABOUT).replace("</body>", f"{MEASURE}</body>"), "utf-8")
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--window-size={width},2400",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = re.search(r'data-found="([^"]*)"', done.stdout)
    assert told, done.stderr
    laid_out = json.loads(unescape(told[1]))
    assert laid_out["background"] == ("rgb(18, 22, 28)" if dark else "rgb(246, 247, 249)")
    assert laid_out["drawings"] == 8
    assert laid_out["clipped"] == []
    assert laid_out["wide"] <= width
