"""`streamer doctor`: what a worker needs, one line each; every FAIL says how to mend it."""

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from streamer.commands.shared import ConfigOption, JsonOption, dump, settings_of, table
from streamer.errors import CheckFailed, FactorsError
from streamer.settings import Settings

_FREE_SHARE, _FREE_BYTES = 0.05, 1 << 30
_OPEN_FILES = 4_096
_SKEW_MS = 1_000

Status = Literal["ok", "warn", "FAIL", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    check: str
    status: Status
    detail: str
    fix: str = ""


def doctor(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Look at the broker, the topics, the model and this machine. Exit code 1 if something must be mended."""
    settings = settings_of(config)
    findings = [*_machine(settings), *_cluster(settings)]
    failed = [finding.check for finding in findings if finding.status == "FAIL"]
    if as_json:
        dump({"ok": not failed, "checks": findings})
    else:
        table(("check", "status", "detail", "fix"), ((one.check, one.status, one.detail, one.fix) for one in findings))
    if failed:
        raise CheckFailed(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}.")


# --- this machine -----------------------------------------------------------------------------------------


def _machine(settings: Settings) -> Iterator[Finding]:
    yield _python()
    yield _disk(settings)
    yield _files()
    yield _threads()


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 14):
        return Finding("python", "ok", found)
    return Finding("python", "FAIL", found, "run with Python 3.11, 3.12 or 3.13")


def _disk(settings: Settings) -> Finding:
    folder = settings.state.dir.resolve()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return Finding("disk", "FAIL", f"{there} cannot be written", "set state.dir to a folder of the worker's user")
    space = shutil.disk_usage(there)
    detail = f"{space.free / (1 << 30):.1f} GiB of {space.total / (1 << 30):.1f} free for {folder}"
    if space.free < max(_FREE_BYTES, _FREE_SHARE * space.total):
        return Finding("disk", "FAIL", detail, "make room, or set state.dir to another disk")
    return Finding("disk", "ok", detail)


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES:
        return Finding("open files", "ok", f"at most {soft}")
    return Finding(
        "open files", "FAIL", f"at most {soft} (hard limit {hard})", f"ulimit -n {_OPEN_FILES} before the start"
    )


def _threads() -> Finding:
    import numpy as np
    from threadpoolctl import threadpool_info, threadpool_limits

    np.linalg.norm(np.eye(2))
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not pools:
        fix = "start with OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_NUM_THREADS=1"
        return Finding("BLAS threads", "warn", "no BLAS library that can be held to one thread was found", fix)
    with threadpool_limits(limits=1):
        stubborn = [p for p in threadpool_info() if p["user_api"] == "blas" and p["num_threads"] != 1]
    names = ", ".join(sorted({f"{pool['internal_api']} {pool['version']}" for pool in pools}))
    if stubborn:
        fix = "start with OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_NUM_THREADS=1"
        return Finding("BLAS threads", "FAIL", f"{names} cannot be held to one thread", fix)
    return Finding("BLAS threads", "ok", f"{names}, held to one thread by the worker")


# --- the cluster --------------------------------------------------------------------------------------------


def _cluster(settings: Settings) -> Iterator[Finding]:
    from streamer.commands.cluster import administration, consuming
    from streamer.commands.topics import differences_of

    checks = ("topics", "model", "dimensions", "clock")
    servers = settings.kafka.bootstrap_servers
    try:
        with administration(settings) as admin:
            brokers = len(admin.describe_cluster()["brokers"])
            differences = differences_of(admin, settings)
    except FactorsError as problem:
        yield Finding("broker", "FAIL", str(problem), "start it, or set kafka.bootstrap_servers")
        yield from (Finding(check, "skip", "needs the broker") for check in checks)
        return
    yield Finding("broker", "ok", f"{brokers} answering at {servers}")
    if differences:
        detail = "; ".join(map(str, differences))
        yield Finding("topics", "FAIL", detail, differences[0].fix)
    else:
        yield Finding("topics", "ok", "as the contract wants them")
    if any(one.found == "missing" for one in differences):
        yield from (Finding(check, "skip", "needs the topics") for check in checks[1:])
        return
    with consuming(settings) as consumer:
        yield from _model(consumer, settings)
        yield _attempt("clock", lambda: _clock(consumer, settings))


def _attempt(check: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except FactorsError as problem:
        return Finding(check, "FAIL", str(problem), "see the sentence before")


def _model(consumer: Any, settings: Settings) -> Iterator[Finding]:
    from streamer.commands.generation import generations

    try:
        manifest, item_topic = generations(consumer, settings).served()
    except FactorsError as problem:
        yield Finding("model", "FAIL", str(problem), "python -m bootstrap run")
        yield Finding("dimensions", "skip", "needs an active model")
        return
    yield Finding("model", "ok", f"{manifest.model_version} is active, its items in {item_topic}")
    yield _attempt("dimensions", lambda: _dimensions(consumer, settings, manifest, item_topic))


def _dimensions(consumer: Any, settings: Settings, manifest: Any, item_topic: str) -> Finding:
    """The newest vectors of both topics are of the active model and as long as its manifest says."""
    from streamer.commands.cluster import places_of
    from streamer.reader import decode_factor

    found: dict[str, int] = {}
    for topic, kind in ((item_topic, "item"), (settings.topic("user-factors"), "user")):
        record = _newest(consumer, places_of(consumer, topic))
        if record is not None and record.value is not None:
            factor = decode_factor(record, "item" if kind == "item" else "user")
            if factor.vector is not None and factor.model_version == manifest.model_version:
                found[topic] = len(factor.vector)
    wrong = {topic: length for topic, length in found.items() if length != manifest.dimension}
    if wrong:
        detail = f"the manifest says {manifest.dimension}, but " + ", ".join(f"{t} has {n}" for t, n in wrong.items())
        return Finding("dimensions", "FAIL", detail, "publish the model again: python -m bootstrap publish")
    return Finding("dimensions", "ok", f"{manifest.dimension} in the manifest and in {len(found)} topics")


def _clock(consumer: Any, settings: Settings) -> Finding:
    """The broker stamps interactions: a stamp from the future means that one of the clocks is wrong.

    A broker that is behind cannot be told from a quiet topic without writing to it.
    """
    from streamer.commands.cluster import places_of

    record = _newest(consumer, places_of(consumer, settings.topic("interactions")))
    if record is None:
        return Finding("clock", "skip", "no event yet to compare with")
    ahead = record.timestamp - time.time_ns() // 1_000_000
    if ahead > _SKEW_MS:
        return Finding(
            "clock",
            "FAIL",
            f"the broker's stamps are {ahead / 1000:.1f} s ahead of this machine",
            "synchronise both clocks (chrony, systemd-timesyncd)",
        )
    return Finding("clock", "ok", f"newest event stamped {-ahead / 1000:.0f} s ago")


def _newest(consumer: Any, places: list[Any]) -> Any | None:
    """The newest of the last records of all partitions."""
    consumer.assign(places)
    ends, starts = consumer.end_offsets(places), consumer.beginning_offsets(places)
    waiting = {place for place in places if ends[place] > starts[place]}
    for place in places:
        # Transaction markers take offsets too: the last record lies a little before the end.
        consumer.seek(place, max(starts[place], ends[place] - 8))
    newest, until = None, time.monotonic() + 5.0
    while waiting and time.monotonic() < until:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                if newest is None or record.timestamp > newest.timestamp:
                    newest = record
        waiting = {place for place in waiting if consumer.position(place) < ends[place]}
    return newest
