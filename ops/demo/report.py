"""The demo's table."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from ops.demo.act import Story


def show(out: Console, story: Story, seconds: float) -> None:
    """Print what changed."""
    p50, p99 = np.percentile(story.latency, [50, 99]) if len(story.latency) else (np.nan, np.nan)
    table = Table(title="What the events changed", show_lines=False)
    for name in ("user", "title clicked", "cosine before", "after", "recommendations that entered", "ms"):
        table.add_column(name, justify="right" if name in ("cosine before", "after", "ms") else "left")
    for row in story.rows:
        latency = "" if np.isnan(row.latency_ms) else f"{row.latency_ms:.0f}"
        entered = ", ".join(row.entered) or "-"
        table.add_row(row.user, row.title, f"{row.before:+.3f}", f"{row.after:+.3f}", entered, latency)
    out.print(table)
    counted = ", ".join(f"{name} {count:,}" for name, count in sorted(story.outcomes.items()))
    out.print(f"outcomes   {story.sent:,} events sent = {counted}")
    out.print(
        f"items      {story.moved:,} of {story.items:,} vectors moved, by 1 - cos = {story.mean_move:.2e} on average"
    )
    out.print(
        f"latency    event to vector, sent to read_committed consumer: p50 {p50:.0f} ms, p99 {p99:.0f} ms "
        f"({len(story.latency):,} vectors, {story.sent / story.send_seconds:,.0f} events/s)"
    )
    out.print(f"[bold green]done[/] in {seconds:.0f} s")
