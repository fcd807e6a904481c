"""From a TOML file and the environment to settings, or to the list of everything that is wrong with them.

Generic over the settings model: which names exist and what is allowed is read off the model, never written
twice. Values nest as in TOML; a *path* is the tuple of keys down to one of them.
"""

import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.records import Policy, policy_mistakes
from streamer.errors import ConfigError, Mistake
from streamer.vocabulary import Keys, Vocabulary, line_of

ENV_PREFIX: Final = "FACTORS_"
CONFIG_VARIABLE: Final = "FACTORS_CONFIG"
"""Names the file, for commands that are given no `--config`; the only variable that is no setting."""

_ENVIRONMENT: Final = "environment"

Origins = dict[str, str]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Across:
    """A mistake that two keys of a section make together, laid at the door of the first."""

    key: str
    other: str
    message: str


@dataclass(slots=True)
class _Reading:
    """What was read so far: the values, where each leaf came from, and the mistakes."""

    words: Vocabulary
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Keys, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def wrong(self, path: Keys, message: str, *, source: str = "") -> None:
        """Note a mistake at a path; its value is shown where there is one and it is no secret."""
        value = self.at(path)
        shown = None if value is None or isinstance(value, dict) else self.words.show(path, value)
        mistake = Mistake(source or self.source(path), ".".join(path), shown, message)
        # What is looked at again after something else was taken out is still wrong, once.
        if mistake not in self.mistakes:
            self.mistakes.append(mistake)

    def is_wrong(self, path: Keys) -> bool:
        """Whether a mistake is noted at a path."""
        return any(mistake.key == ".".join(path) for mistake in self.mistakes)

    def at(self, path: Keys) -> object:
        """The value at a path, None where there is none."""
        value: object = self.values
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def source(self, path: Keys) -> str:
        """Where the value at a path came from, or the nearest one around it."""
        for above in range(len(path), 0, -1):
            for at, origin in self.origins.items():
                if at[:above] == path[:above]:
                    return origin
        return "configuration"


def read_configuration(model: type[Model], path: Path | None, environ: Mapping[str, str]) -> tuple[Model, Origins]:
    """The settings and, by dotted key, the place of each value that is not a default.

    Raises:
        ConfigError: lists every mistake in the file and in the environment.
    """
    reading = _Reading(Vocabulary(model))
    if path is not None:
        _read_file(reading, path)
        _refuse_numbers_as_text(reading)
    _read_environment(reading, environ)
    settings = _validated(reading, model, _policy(reading))
    if settings is None:
        raise ConfigError(mistakes=sorted(reading.mistakes, key=_place))
    return settings, {".".join(at): origin for at, origin in reading.origins.items()}


def _place(mistake: Mistake) -> tuple[str, int, str]:
    file, _, line = mistake.source.rpartition(":")
    return (file, int(line), mistake.key) if line.isdigit() else (mistake.source, 0, mistake.key)


def _read_file(reading: _Reading, path: Path) -> None:
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        reading.values = tomllib.loads(text)
    except OSError as error:
        reading.wrong((), f"cannot be read: {error.strerror or error}", source=str(path))
    except UnicodeDecodeError:
        reading.wrong((), "is not UTF-8 text", source=str(path))
    except tomllib.TOMLDecodeError as error:
        reading.wrong((), f"is not valid TOML: {error}", source=str(path))
    for at in _leaves(reading.values):
        line = line_of(text, at)
        reading.origins[at] = f"{path}:{line}" if line else str(path)


def _refuse_numbers_as_text(reading: _Reading) -> None:
    """A file has numbers; only the environment, which knows nothing else, has them as text."""
    for at in list(_leaves(reading.values)):
        if isinstance(value := reading.at(at), str) and reading.words.is_number(at):
            readable = value.strip().lstrip("+-").replace(".", "", 1).isdigit()
            hint = "; leave out the quotes" if readable else ""
            reading.wrong(at, f"must be {reading.words.allowed(at)}, not text{hint}")
            _take(reading.values, at)


def _leaves(values: Mapping[str, Any], above: Keys = ()) -> Iterator[Keys]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _read_environment(reading: _Reading, environ: Mapping[str, str]) -> None:
    variables = {_variable(path): path for path in reading.words.leaves()}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name == CONFIG_VARIABLE:
            continue
        if path := variables.get(name):
            _put(reading.values, path, environ[name])
            reading.origins[path] = f"{_ENVIRONMENT} {name}"
        else:
            shown = reading.words.show(tuple(name.split("__")), environ[name])
            nearest = reading.words.nearest(name, list(variables))
            reading.mistakes.append(Mistake(_ENVIRONMENT, name, shown, f"is no setting{nearest}"))


def _variable(path: Keys) -> str:
    return ENV_PREFIX + "__".join(path).upper()


def _put(values: dict[str, Any], path: Keys, value: object) -> None:
    for key in path[:-1]:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    values[path[-1]] = value


def _policy(reading: _Reading) -> Policy:
    """The policy; where it has mistakes, they are noted and the defaults stand in."""
    given = reading.values.pop("policy", {})
    if not isinstance(given, dict):
        reading.wrong(("policy",), "must be a table")
        return Policy()
    # Put back for the messages; the model is given the policy itself.
    reading.values["policy"] = given
    before = len(reading.mistakes)
    values: dict[str, Any] = {}
    for struct_field in msgspec.structs.fields(Policy):
        name = struct_field.name
        if name in given:
            values[name] = _convert(reading, ("policy", name), struct_field.type)
    if isinstance(values.get("weights"), dict):
        # Naming one weight leaves the others as they are.
        values["weights"] = Policy().weights | {
            kind: _convert(reading, ("policy", "weights", kind), float) for kind in values["weights"]
        }
    for name in given.keys() - set(Policy.__struct_fields__):
        reading.wrong(("policy", name), reading.words.unknown(("policy", name)))
    for text in policy_mistakes(values):
        key, message = text.split(": ", 1)
        reading.wrong(tuple(key.split(".")), message.rsplit(", got ", 1)[0])
    return Policy() if len(reading.mistakes) > before else Policy(**values)


def _convert(reading: _Reading, path: Keys, kind: Any) -> object:  # a type expression has no narrower type
    """The value at a path as its field's type where it can be read as that: as text from the environment only."""
    value = reading.at(path)
    try:
        return msgspec.convert(value, kind, strict=not reading.source(path).startswith(_ENVIRONMENT))
    except msgspec.ValidationError:
        return value


def _validated(reading: _Reading, model: type[Model], policy: Policy) -> Model | None:
    """The settings; None when they have mistakes.

    Pydantic looks at the keys of a section together only when each by itself is right: what is wrong is
    noted, taken out, and the rest looked at again.
    """
    values = deepcopy({**reading.values, "policy": {}}) | {"policy": policy}
    while True:
        try:
            settings = model.model_validate(values)
        except ValidationError as error:
            removed = [_note(reading, values, detail) for detail in error.errors(include_url=False)]
            if not any(removed):
                return None
        else:
            return None if reading.mistakes else settings


def _note(reading: _Reading, values: dict[str, Any], detail: ErrorDetails) -> bool:
    """Note the mistake and take its value out of the values; False where there was none to take."""
    path = tuple(str(key) for key in detail["loc"])
    match detail["type"]:
        case "extra_forbidden":
            reading.wrong(path, reading.words.unknown(path))
        case "across":
            taken = [_note_across(reading, values, path, one) for one in detail["ctx"]["mistakes"]]
            return any(taken)
        case "path_not_file":
            reading.wrong(path, "names no file")
        case _:
            reading.wrong(path, f"must be {reading.words.allowed(path)}")
    return _take(values, path)


def _note_across(reading: _Reading, values: dict[str, Any], section: Keys, across: Across) -> bool:
    key, other = (*section, across.key), (*section, across.other)
    # A default stood in for the other key: what it says is no news.
    if not reading.is_wrong(other):
        # Where the key itself is not given, the other one is what must be changed.
        place = key if reading.at(key) is not None else other
        reading.wrong(key, across.message, source=reading.source(place))
    return _take(values, key)


def _take(values: dict[str, Any], path: Keys) -> bool:
    """Take the value at a path out; false where there was none."""
    inner: Any = values
    for key in path[:-1]:
        inner = inner.get(key, {})
    return inner.pop(path[-1], None) is not None
