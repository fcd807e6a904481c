"""MovieLens-100K, read out of a wheel on PyPI that carries it as an example; nothing of it is committed.

Its licence allows research and forbids redistribution. Please cite: F. M. Harper, J. A. Konstan (2015),
The MovieLens Datasets: History and Context, ACM TiiS 5(4), https://doi.org/10.1145/2827872
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ops.data.dataset import Dataset, DataUnavailableError, Event, Item

REQUIREMENT = "recbole==1.2.1"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
FOLDER = "recbole/dataset_example/ml-100k/"
# The two members that are read are pinned too: they are the data, the wheel is only the envelope.
MEMBER_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
LIKED = 4.0
DOWNLOAD_SECONDS = 60


def load(cache: Path) -> Dataset:
    """Ratings of 4 and 5 as ``like`` events, ordered by (timestamp, user, item), and all films with genres.

    Raises:
        DataUnavailableError: the wheel is not cached and cannot be fetched, or is not the one that was pinned.
    """
    with zipfile.ZipFile(fetch(cache)) as wheel:
        ratings = _member(wheel, "ml-100k.inter")
        films = _member(wheel, "ml-100k.item")
    return Dataset("MovieLens-100K", _events(ratings), _items(films))


def load_ratings(cache: Path) -> Dataset:
    """All ratings, 1 to 5 as the ``value`` of ``watch_complete`` events, in the order of `load`; and all films.

    Raises:
        DataUnavailableError: as `load`.
    """
    with zipfile.ZipFile(fetch(cache)) as wheel:
        ratings = _member(wheel, "ml-100k.inter")
        films = _member(wheel, "ml-100k.item")
    events = _events(ratings, least=0.0, kind="watch_complete", with_value=True)
    return Dataset("MovieLens-100K ratings", events, _items(films))


def fetch(cache: Path) -> Path:
    """The pinned wheel in ``cache``, downloaded at the first call; read as a zip file, never installed.

    Raises:
        DataUnavailableError: it cannot be downloaded, or its SHA-256 is not the pinned one.
    """
    wheel = cache / WHEEL
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as aside:
            _download(Path(aside))
            _check(Path(aside) / WHEEL)
            (Path(aside) / WHEEL).replace(wheel)
    _check(wheel)
    return wheel


def _download(folder: Path) -> None:
    options = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
        REQUIREMENT,
    ]
    try:
        done = subprocess.run(
            [*_pip(), "--disable-pip-version-check", *options],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataUnavailableError(f"pip did not download {REQUIREMENT} within {DOWNLOAD_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataUnavailableError(f"pip could not download {REQUIREMENT}: {lines[-1] if lines else 'no reason given'}")


def _pip() -> list[str]:
    """This interpreter's pip; environments made by uv have none, so then whichever the machine has."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name, arguments in (("pip3", []), ("pip", []), ("uv", ["tool", "run", "pip"])):
        if path := shutil.which(name):
            return [path, *arguments]
    raise DataUnavailableError("there is no pip to download it with")


def _check(wheel: Path) -> None:
    if not wheel.exists():
        raise DataUnavailableError(f"pip downloaded no {WHEEL}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise DataUnavailableError(
            f"{wheel.name} has SHA-256 {found}, not the pinned {WHEEL_SHA256}: delete it and retry"
        )


def _member(wheel: zipfile.ZipFile, name: str) -> list[list[str]]:
    """The tab-separated rows of one member, without its header line."""
    data = wheel.read(FOLDER + name)
    if hashlib.sha256(data).hexdigest() != MEMBER_SHA256[name]:
        raise DataUnavailableError(f"{name} in {WHEEL} is not the pinned file")
    return [line.split("\t") for line in data.decode().rstrip("\n").split("\n")[1:]]


def _events(
    ratings: list[list[str]], *, least: float = LIKED, kind: str = "like", with_value: bool = False
) -> tuple[Event, ...]:
    chosen = sorted(
        (int(float(timestamp)), int(user), int(item), float(rating))
        for user, item, rating, timestamp in ratings
        if float(rating) >= least
    )
    # No (user, item) pair is rated twice, so the pair names the event.
    return tuple(
        {
            "request_id": f"ml-{user}-{item}",
            "user_id": f"user-{user}",
            "item_id": f"film-{item}",
            "event_type": kind,
            "timestamp": seconds * 1000,
            **({"value": rating} if with_value else {}),
        }
        for seconds, user, item, rating in chosen
    )


def _items(films: list[list[str]]) -> tuple[Item, ...]:
    return tuple(
        {
            "item_id": f"film-{item}",
            "title": f"{title} ({year})" if year.isdigit() else title,
            "attributes": {"genres": genres.split(), **({"year": int(year)} if year.isdigit() else {})},
        }
        for item, title, year, genres in films
    )
