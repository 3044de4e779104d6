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
    "bad": "31", "warn": "33", "unknown": "33",
    "protected": "36", "victim": "36",
}  # fmt: skip

_LEAST_NAME = 16  # columns that a name keeps where the terminal is narrow
_LEAST_LAST = 24  # likewise the last column, which is wrapped
_BELOW = "    "  # before the last column where it stands below the others


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


def columns(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415  few names need it

    return sum(0 if combining(letter) else 1 + (east_asian_width(letter) in "WF") for letter in text)


def cut(text: str, width: int) -> str:
    """Return the text in no more than `width` columns, `…` where something is missing."""
    if columns(text) <= width:
        return text
    while text and columns(text) >= width:
        text = text[:-1]
    return text + "…"


def wrap(text: str, width: int) -> list[str]:
    """Return the text as lines of at most `width` columns where its words allow."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and columns(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _terminal_columns() -> int | None:
    """Return the width of the terminal that standard output is; None where it is none."""
    if not sys.stdout.isatty():
        return None
    return os.get_terminal_size(sys.stdout.fileno()).columns or None


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of fixed width: header first, words left, numbers right, None as `-`.

    On a terminal that is narrower, names are cut and the last column is wrapped, below the others where it
    has too little room beside them; what goes to a file or a pipe is always whole.
    """
    cells = [
        [
            "-" if cell is None else figure(cell) if isinstance(cell, float) else printable(str(cell))
            for cell in row
        ]
        for row in rows
    ]
    numeric = [
        bool(rows) and all(isinstance(row[index], (int, float, type(None))) for row in rows)
        for index in range(len(header))
    ]
    widths = [max(columns(line[index]) for line in (header, *cells)) for index in range(len(header))]
    most, below = _terminal_columns(), False
    if most is not None and sum(widths) + 2 * (len(widths) - 1) > most:
        if header[0] == "Name":
            others = sum(widths[1:-1]) + min(widths[-1], _LEAST_LAST) + 2 * (len(widths) - 1)
            widths[0] = min(widths[0], max(_LEAST_NAME, most - others))
        room = most - sum(widths[:-1]) - 2 * (len(widths) - 1)
        below = room < min(widths[-1], _LEAST_LAST)
        widths[-1] = min(widths[-1], most - len(_BELOW) if below else room)
    lines = []
    for number, line in enumerate((header, *cells)):
        last = wrap(line[-1], widths[-1])
        padded = []
        for index, cell in enumerate(line[:-1] if below else (*line[:-1], last[0])):
            text = cut(cell, widths[index]) if not index else cell
            gap = " " * (widths[index] - columns(text))
            text = gap + text if numeric[index] else text + gap
            padded.append(colour(text) if number else text)
        lines.append("  ".join(padded).rstrip())
        indent = _BELOW if below else " " * (sum(widths[:-1]) + 2 * (len(widths) - 1))
        lines += [indent + more for more in (last if below else last[1:])]
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


def short(value: float | None) -> str:
    """Return a figure in few columns: `0`, `950`, `12.3M`."""
    if value is None:
        return "-"
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return (f"{value:.0f}" if unit == "" else f"{value:.3g}") + unit
        value /= 1000
    return f"{value:.0f}T"
