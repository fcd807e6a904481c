"""What a training came to, as a table and lines for people, on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootstrap.gates import key_of, reached
from bootstrap.incumbent import compared, lost
from bootstrap.job import told

if TYPE_CHECKING:
    from bootstrap.read import Log
    from schemas.records import Gate


def records(log: Log) -> str:
    """How many records were read, and what became of them."""
    return f"{log.records:,} records: {told(log)}"


def print_gates(gates: list[Gate], metrics: dict[str, float]) -> None:
    """A line a gate, by the name of the setting that bounds it."""
    for gate in gates:
        print(f"{'passed' if gate.passed else 'FAILED':>10} {key_of(gate)}: {reached(gate, metrics)}")
    if not metrics.get("scored_events"):
        print("not measured: how well it foretells, 0 events scored; nothing but the gates above speaks for it")


def print_metrics(metrics: dict[str, float]) -> None:
    """What was foretold, and what stands beside the active model."""
    if not metrics.get("scored_events"):
        print("too few events to evaluate")
    elif "rmse" in metrics:
        _print_errors(metrics)
    else:
        _print_rankings(metrics)
    if how := compared(metrics):
        whose = "the active recipe" if metrics["active_retrained"] else "the active model"
        print(
            f"beside the active model, {how}: Recall@{int(metrics['k'])} {metrics['beside_active_recall']:.4f} of this "
            f"one, {metrics['active_recall']:.4f} of {whose}"
        )
    for line in lost(metrics):
        print(line)


def _print_rankings(metrics: dict[str, float]) -> None:
    k = int(metrics["k"])
    heads = (f"Recall@{k}", f"NDCG@{k}", f"MAP@{k}", "hit rate", "known users", "new users")
    print(
        f"foretold, of {int(metrics['scored_events']):,} later events".rjust(32)
        + "".join(f"{head:>12}" for head in heads)
    )
    names = ("recall", "ndcg", "map", "hit_rate", "known_users_recall", "new_users_recall")
    for name, prefix in (("folded in, as the stream does", ""), ("frozen", "frozen_"), ("popularity", "popularity_")):
        print(f"{name:>32}" + "".join(f"{metrics[prefix + metric]:12.4f}" for metric in names))
    if "online_recall" in metrics:
        print(f"{'with items that move':>32}{metrics['online_recall']:12.4f}{metrics['online_ndcg']:12.4f}")
        print(
            f"of all {int(metrics['online_all_scored_events']):,} events, an unknown item being a miss: recall "
            f"{metrics['online_all_recall']:.4f}; {int(metrics['online_entered']):,} new items folded in"
        )
    print(
        f"lists of {k}: coverage {metrics['coverage']:.3f}, novelty {metrics['novelty']:.2f} bits, share of the most "
        f"popular hundredth {metrics['top_share']:.3f}; the model knows the item of {metrics['known_item_events']:.1%} "
        f"and the user of {metrics['known_user_events']:.1%} of the events"
    )
    print(
        f"new items: {metrics['new_items_recall']:.4f} of {int(metrics['new_items_events']):,} events; suppressed "
        f"items take {metrics['suppressed_share']:.2%} of the places, withdrawn ones {metrics['withdrawn_share']:.2%}"
        + (f"; an index finds {metrics['ann_recall']:.1%} of the exact lists" if "ann_recall" in metrics else "")
    )


def _print_errors(metrics: dict[str, float]) -> None:
    print(
        f"foretold, of {int(metrics['scored_events']):,} later ratings".rjust(32)
        + "".join(f"{head:>14}" for head in ("RMSE", "known users", "new users"))
    )
    names = (("solved anew, as the stream does", ""), ("frozen", "frozen_"), ("biases, solved anew", "biases_"))
    for name, prefix in (*names, ("mean", "mean_")):
        values = [metrics[f"{prefix}{whose}rmse"] for whose in ("", "known_users_", "new_users_")]
        print(f"{name:>32}" + "".join(f"{value:14.4f}" for value in values))
