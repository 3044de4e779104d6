# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for people: tables, times, and colour where it is a terminal that reads."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_COLOURS = {
    "contained": "31", "attacker": "31", "failed": "31", "garbled": "31",
    "watched": "33", "silent": "33", "version": "33", "pending": "33",
    "protected": "36", "victim": "36",
}  # fmt: skip


def printable(text: str) -> str:
    """Return the text with what could steer a terminal replaced."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def use_colour() -> bool:
    """Tell whether standard output is a terminal that wants colour (NO_COLOR, TERM=dumb)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def colour(word: str) -> str:
    """Return the word in the colour of its meaning, where there is colour."""
    code = _COLOURS.get(word.strip()) if use_colour() else None
    return f"\x1b[{code}m{word}\x1b[0m" if code else word


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of fixed width: header first, words left, numbers right, None as `-`."""
    cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    numeric = [
        bool(rows) and all(isinstance(row[index], (int, float, type(None))) for row in rows)
        for index in range(len(header))
    ]
    widths = [max(len(line[index]) for line in (header, *cells)) for index in range(len(header))]
    lines = []
    for number, line in enumerate((header, *cells)):
        padded = []
        for index, cell in enumerate(line):
            text = cell.rjust(widths[index]) if numeric[index] else cell.ljust(widths[index])
            padded.append(colour(text) if number else text)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def clock_time(unix_s: float) -> str:
    """Return the local time of day, with the date where that is not today."""
    then = time.localtime(unix_s)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def span(seconds: float | None) -> str:
    """Return a time span as `42 s`, `7 min` or `3 h`."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def figure(value: float | None) -> str:
    """Return a number as people read it: `1,234` or `0.75`."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
