# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program on a terminal of its own, and what the terminal shows: as text, or as HTML for a picture."""

from __future__ import annotations

import contextlib
import fcntl
import html
import os
import struct
import subprocess
import termios
import time
from itertools import groupby
from typing import TYPE_CHECKING, Self

import pyte

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyte.screens import Char

PATIENCE_S = 30.0
# A usual terminal's colours on white and on black: text, background, and what curses names.
THEMES = {
    False: {"fg": "#24292f", "bg": "#ffffff", "red": "#c91b00", "brown": "#a06800", "cyan": "#007f8a"},
    True: {"fg": "#d0d7de", "bg": "#0d1117", "red": "#ff6b5e", "brown": "#e0b84a", "cyan": "#4fc3cd"},
}


class Terminal:
    """A running program; `idle` is called again and again while one waits for what it shows."""

    def __init__(
        self, words: Sequence[str], *, columns: int = 80, lines: int = 24, idle: Callable[[], None],
        environment: dict[str, str],
    ) -> None:  # fmt: skip
        self._idle = idle
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._keyboard, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        os.set_blocking(self._keyboard, False)
        self.process = subprocess.Popen(
            words,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment},
        )
        os.close(terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._keyboard)

    def press(self, text: str) -> None:
        """Type it."""
        os.write(self._keyboard, text.encode())

    def sees(self, text: str) -> bool:
        """Wait until the text is on the screen; false where it is not in time."""
        return self._until(lambda: text in "\n".join(self.screen.display))

    def ended(self) -> int | None:
        """Wait for its end; return its exit status."""
        self._until(lambda: self.process.poll() is not None)
        return self.process.returncode

    def _until(self, true: Callable[[], bool]) -> bool:
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            self._idle()
            with contextlib.suppress(OSError):  # nothing to read, or it ended
                self._stream.feed(os.read(self._keyboard, 65536))
            if true():
                return True
        return False

    def html(self, *, dark: bool) -> str:
        """Return the screen as a page: one line of text for each of its own."""
        theme = THEMES[dark]
        lines = []
        for y in range(self.screen.lines):
            row = [self.screen.buffer[y][x] for x in range(self.screen.columns)]
            lines.append("".join(_span(list(run), theme) for _style, run in groupby(row, _style)))
        text = "\n".join(lines)
        return (
            f"<!DOCTYPE html><meta charset='utf-8'><body style='margin:0;background:{theme['bg']}'>"
            f"<pre style='margin:0;padding:8px;display:inline-block;color:{theme['fg']};"
            f'font:14px/1.25 "DejaVu Sans Mono",monospace\'>{text}</pre>'
        )


def _style(char: Char) -> tuple[str, bool, bool]:
    return char.fg, char.bold, char.reverse


def _span(run: Sequence[Char], theme: dict[str, str]) -> str:
    foreground, background = theme.get(run[0].fg, theme["fg"]), theme["bg"]
    if run[0].reverse:
        foreground, background = background, foreground
    weight = "bold" if run[0].bold else "normal"
    text = html.escape("".join(char.data for char in run))
    return f"<span style='color:{foreground};background:{background};font-weight:{weight}'>{text}</span>"
