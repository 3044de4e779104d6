# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a YAML file that a person wrote: every complaint has the file, the line and what was expected."""

from __future__ import annotations

import difflib
import math
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import yaml

from xenwarden_host.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jsonschema.exceptions import ValidationError

MAX_BYTES = 1 << 20  # a policy or scenario is a few kB; what is larger is a mistake
MAX_NODES = 100_000  # aliases that multiply themselves end here
MAX_DEPTH = 50
_LONG = 60  # of a value that a complaint shows

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file's data and, for each value by its place (keys and indices from the top), the line it is on."""

    data: Any
    lines: Mapping[Place, int] = field(default_factory=dict)


def load(path: Path | str, schema: Mapping[str, Any]) -> Any:
    """Return the file's data, valid against the JSON Schema. Keys are text as written; empty is `{}`.

    Raises:
        ConfigError: `file:line: what was expected`, or `file: why it cannot be read`.
    """
    return load_with_lines(path, schema).data


def load_with_lines(path: Path | str, schema: Mapping[str, Any]) -> Loaded:
    """Return data and lines as `load` does, for messages about what a schema cannot say.

    Raises:
        ConfigError: as `load`.
    """
    return parse(_read(path), str(path), schema)


def parse(raw: bytes, name: str, schema: Mapping[str, Any]) -> Loaded:
    """Parse and validate `raw`; `name` is the file's name in messages.

    Raises:
        ConfigError: as `load`.
    """
    node = _compose(_decode(raw, name), name)
    if node is None:
        loaded = Loaded({}, {(): 1})
    else:
        lines: dict[Place, int] = {}
        loaded = Loaded(_Builder(name, lines).build(node, (), 0), lines)
    validate(loaded, name, schema)
    return loaded


def _read(path: Path | str) -> bytes:
    try:
        # O_NONBLOCK: a FIFO must be refused, not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{path}: is no regular file")
    with os.fdopen(fd, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES >> 10} KiB, which no such file needs")
    return raw


def _decode(raw: bytes, name: str) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: expected UTF-8 text, found other bytes") from None
    for number, line_text in enumerate(text.split("\n"), 1):
        for character in line_text:
            if character < " " and character not in "\t\r":
                raise ConfigError(
                    f"{name}:{number}: expected text, found the control character {character!a}"
                )
    return text


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{name}:{line}: is no valid YAML: {said}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}:1: is no valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}:1: is nested too deep") from None


class _Builder:
    """Turn nodes into plain data, and note lines. Keys stay text: YAML 1.1 would make `on` a boolean."""

    def __init__(self, name: str, lines: dict[Place, int]) -> None:
        self._name = name
        self._lines = lines
        self._scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, place: Place, depth: int) -> Any:
        line = node.start_mark.line + 1
        self._lines.setdefault(place, line)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{self._name}:{line}: is nested deeper than {MAX_DEPTH} levels")
        if len(self._lines) > MAX_NODES:
            raise ConfigError(f"{self._name}:{line}: holds more than {MAX_NODES} values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*place, index), depth + 1) for index, item in enumerate(node.value)]
        try:
            value = self._scalars.construct_object(node)
            # Infinity and NaN pass every minimum and maximum of a schema, or none: no file means them.
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{self._name}:{line}: expected a finite number")
            return value  # noqa: TRY300
        except (yaml.YAMLError, ValueError) as error:
            said = getattr(error, "problem", None) or error
            if len(node.value) > _LONG:  # Python's own words about a number of so many digits help nobody
                said = f"too long ({len(node.value)} characters)"
            raise ConfigError(f"{self._name}:{line}: is no valid value: {said}") from None

    def _mapping(self, node: yaml.MappingNode, place: Place, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self._name}:{line}: expected a plain word as key")
            key = key_node.value
            if key in out:
                first = self._lines[(*place, key)]
                raise ConfigError(f"{self._name}:{line}: key {key!r} is given twice, first on line {first}")
            self._lines[(*place, key)] = line
            out[key] = self.build(value_node, (*place, key), depth + 1)
        return out


def validate(loaded: Loaded, name: str, schema: Mapping[str, Any]) -> None:
    """Check data against the JSON Schema; `name` is the file's name in messages.

    Raises:
        ConfigError: as `load`.
    """
    # jsonschema costs 0.2 s and 10 MB to import: only who reads such a file pays.
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    found = list(Draft202012Validator(schema).iter_errors(loaded.data))
    if not found:
        return
    told = sorted({_complaint(_deepest(error), loaded) for error in found})
    raise ConfigError("\n".join(f"{name}:{line}: {text}" for line, text in told[:10]))


def _deepest(error: ValidationError) -> ValidationError:
    """Return the complaint that helps: of alternatives, the one that got furthest."""
    while error.context:
        deepest = max(len(inner.absolute_path) for inner in error.context)
        inner = [e for e in error.context if len(e.absolute_path) == deepest]
        if len(inner) > 1 and deepest == len(error.absolute_path):
            return error
        error = inner[0]
    return error


def _complaint(error: ValidationError, loaded: Loaded) -> tuple[int, str]:
    place: Place = tuple(error.absolute_path)
    dotted = ".".join(str(part) for part in place)
    at = f"{dotted}: " if dotted else ""
    schema: dict[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    value: Any = error.validator_value
    known = sorted(schema.get("properties", {}))
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        patterns = schema.get("patternProperties", {})
        unknown = [key for key in error.instance if key not in known and not patterns]
        if unknown:
            key = unknown[0]
            return _line(loaded, (*place, key)), f"{at}unknown key {key!r}, {_suggest(key, known)}"
    if list(error.absolute_schema_path)[-2:-1] == ["propertyNames"]:  # the instance is a key, not a value
        key = str(error.instance)
        said = _suggest(key, value) if error.validator == "enum" else f"expected {_expected(error)}"
        return _line(loaded, (*place, key)), f"{at}unknown key {key!r}, {said}"
    line = _line(loaded, place)
    if error.validator == "required":
        missing = [key for key in value if key not in cast("dict[str, Any]", error.instance)]
        return line, f"{at}expected key {missing[0]!r}, which is missing"
    return line, f"{at}expected {_expected(error)}, found {_shown(error.instance)}"


def _line(loaded: Loaded, place: Place) -> int:
    while place and place not in loaded.lines:
        place = place[:-1]
    return loaded.lines.get(place, 1)


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"expected one of {', '.join(known)}" if known else "expected none here"


_PLAIN = {
    "type": "{}",
    "minimum": "a number of at least {}",
    "exclusiveMinimum": "a number above {}",
    "maximum": "a number of at most {}",
    "exclusiveMaximum": "a number below {}",
    "minLength": "text of at least {} characters",
    "maxLength": "text of at most {} characters",
    "minItems": "a list of at least {}",
    "maxItems": "a list of at most {}",
    "minProperties": "at least {} keys",
    "maxProperties": "at most {} keys",
    "const": "{!r}",
    "pattern": "text that matches {}",
}
_TYPES = {
    "object": "keys with values",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


def _expected(error: ValidationError) -> str:
    schema: dict[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    said = schema.get("x-expected")  # a schema may say it in words
    if said:
        return str(said)
    value: Any = error.validator_value
    if error.validator == "type":
        return " or ".join(_TYPES[kind] for kind in ([value] if isinstance(value, str) else value))
    if error.validator == "enum":
        choices = [str(choice) for choice in value]
        close = difflib.get_close_matches(str(error.instance), choices, n=1)
        listed = "one of " + ", ".join(choices)
        return f"{listed} (did you mean {close[0]!r}?)" if close else listed
    plain = _PLAIN.get(str(error.validator))
    return plain.format(value) if plain else f"something else ({error.message})"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    # As it is written in the file: of a boolean, a date.
    text = repr(value) if isinstance(value, str) else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."
