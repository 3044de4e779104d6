# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON with CPython's own parser and nothing around it.

`import json` and `import socket` each bring `re` or `enum` and cost two thirds of what starting Python
costs. A command that is typed many times a day, and asked by scripts each second, goes without.
"""

from __future__ import annotations

from _json import encode_basestring_ascii as quoted
from _json import make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Plain:
    """What json.JSONDecoder would tell the scanner by default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  the scanner's own


_scan = make_scanner(_Plain())  # type: ignore[arg-type]  # it takes whatever has these members


def loads(text: str) -> Any:
    """Return the value that the text begins with.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        value, _end = _scan(text, 0)
    except StopIteration:
        raise ValueError("no JSON") from None
    return value


def dumps(value: Any, *, indent: int = 0, _margin: str = "\n") -> str:
    """Return the value as `json.dumps` would: on one line, or with each member on its own by `indent`.

    A float has to be finite.
    """
    if isinstance(value, str):
        return quoted(value)
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return repr(value).lower()  # True is true; a number's e is small already
    inner = _margin + " " * indent if indent else ""
    between = "," + (inner or " ")
    if isinstance(value, dict):
        marks = "{}"
        parts = [
            f"{quoted(name)}: {dumps(item, indent=indent, _margin=inner)}" for name, item in value.items()
        ]
    else:
        marks = "[]"
        parts = [dumps(item, indent=indent, _margin=inner) for item in value]
    if not parts:
        return marks
    return marks[0] + inner + between.join(parts) + (_margin if indent else "") + marks[1]
