"""Every error is found, each with its path, and none spills the payload."""

import json

import pytest

from schemas.outcomes import Reason
from streamer.events.explain import MAX_ERRORS, explain
from streamer.events.verdicts import Rejected
from tests.streamer.events.samples import EVENT, errors_of, raw, text


@pytest.mark.parametrize(
    ("value", "errors"),
    [
        (text(value=-1), ["$.value: must be a number > 0, got -1"]),
        (text(item_id=None), ["$.item_id: missing"]),
        (text(clor=1), ["$.clor: unknown field"]),
        (text(item_Id=1), ["$.item_Id: unknown field; did you mean item_id?"]),
        (text(contex={}), ["$.contex: unknown field; did you mean context?"]),
        (text(**{"two words": 1}), ['$["two words"]: unknown field']),
        (text(user_id=...), ["$.user_id: must be text of 1 to 256 characters, got null"]),
        (text(consent="yes"), ['$.consent: must be true, false or null, got "yes"']),
        (text(traffic="robot"), ['$.traffic: must be one of human, bot, internal, or null, got "robot"']),
        (
            text(context={"a b": [1]}),
            ['$.context["a b"]: must be text, a number, a boolean or null, got an array'],
        ),
        (
            raw("context", '{"n": 1e999}'),
            ["$.context.n: must be finite and, if an integer, fit 64 bits, got 1e999"],
        ),
        (b"[1]", ["$: must be an object, got an array"]),
        (b"NaN", ["$: must be an object, got NaN"]),
    ],
)
def test_each_error_says_where_what_and_what_instead(value: bytes, errors: list[str]) -> None:
    """Path, what is allowed, what was found, and the nearest name where there is one."""
    assert errors_of(value) == errors


def test_all_errors_are_listed_at_once() -> None:
    """Missing, wrong, bad and unknown fields stand side by side."""
    fields = EVENT | {"value": "@", "consent": 1, "colour": "red", "event_type": "clik"}
    del fields["user_id"]
    value = json.dumps(fields).replace('"@"', "1e999").encode()
    verdict = explain(value, ())
    assert isinstance(verdict, Rejected)
    assert verdict.reason is Reason.UNKNOWN_EVENT_TYPE
    assert [error.path for error in verdict.errors] == [
        "$.user_id",
        "$.event_type",
        "$.consent",
        "$.colour",
        "$.value",
    ]
    assert verdict.errors[1].message.endswith('got "clik"; did you mean click?')


def test_errors_beyond_the_limit_are_counted() -> None:
    """A record of thousands of faults does not make a header of megabytes."""
    value = text(**{f"unknown{number}": 1 for number in range(3000)})
    errors = errors_of(value)
    assert len(errors) == MAX_ERRORS + 1
    assert errors[-1] == f"$: and {3000 - MAX_ERRORS} more errors"


@pytest.mark.parametrize("secret", ["s3cret" * 100, "ключ" * 500, '"\\' * 300])
def test_no_more_than_an_excerpt_leaks(secret: str) -> None:
    """Values and names are quoted up to 64 characters."""
    for value in (
        text(traffic=secret),
        text(event_type=secret),
        text(**{secret: 1}),
        text(context={secret: []}),
        raw("value", "7" * 3000),
    ):
        for error in errors_of(value):
            assert len(error) < 280
            assert secret[:64] not in error
