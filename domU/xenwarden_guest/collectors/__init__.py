# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collectors: one file each, `read` (I/O) apart from `parse` (pure, total), root as an argument.

`parse` returns raw counters and gauges as integers by name, or raises `Unparsable`; it never guesses.
What the numbers mean is the business of `vsem` and `vrem`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Collect = Callable[["Roots"], dict[str, int]]
    Made = TypeVar("Made")

_CHUNK = 65536
# A table of the kernel's that is read in parts gives its first lines up to a page, so that what is shorter
# than this is whole: no line is as long as the other half.
_SHORT = 2048
_MAX_FILE = 1 << 20  # /proc/interrupts of a 128-vCPU guest is about 200 kB


class Unparsable(ValueError):  # noqa: N818  the noun is the record's state, like MessageError's siblings
    """A file does not hold what the kernel documents for it."""


class Roots:
    """Where `/proc` and `/sys` are (fixtures and `--root` put them elsewhere), and what was read there.

    What an idle VM's agent costs is mostly this: half of what reading a file of `/proc` takes is finding,
    opening and closing it, and most files say what they said before.
    """

    __slots__ = ("_files", "_made", "_real", "_texts", "proc", "sys")

    def __init__(self, root: str = "/") -> None:
        self.proc = os.path.join(root, "proc")  # noqa: PTH118  pathlib costs 1 MB in the guest
        self.sys = os.path.join(root, "sys")  # noqa: PTH118
        self._real = root == "/"  # files elsewhere may be replaced
        self._files: dict[str, int] = {}  # open ones, by name below `proc`
        self._texts: dict[str, bytes] = {}  # what they held when they were read
        self._made: dict[str, tuple[object, Any]] = {}

    def __del__(self) -> None:
        for fd in self._files.values():
            os.close(fd)

    def lines(self, name: str) -> bytes:
        """Return the content of a file below `/proc` that consists of lines.

        Raises:
            OSError: it cannot be read.
            Unparsable: it ends within a line: what is cut there would be a smaller number.
        """
        self._texts.pop(name, None)
        text = self._read(name)
        if text and not text.endswith(b"\n"):
            raise Unparsable("cut")
        self._texts[name] = text
        return text

    def again(self, name: str) -> bytes:
        """Return what `lines` returned the last time; it is called where it failed then, or never was.

        Raises:
            OSError, Unparsable: as `lines`.
        """
        text = self._texts.get(name)
        return self.lines(name) if text is None else text

    def _read(self, name: str) -> bytes:
        if not self._real:
            return read_file(f"{self.proc}/{name}")
        fd = self._files.pop(name, -1)
        if fd < 0:
            fd = os.open(f"{self.proc}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = _read(fd)
        except OSError:
            os.close(fd)
            raise
        self._files[name] = fd
        return text

    def made(self, name: str, of: object, make: Callable[[], Made]) -> Made:
        """Return what `make` made the last time, where that was `of` the same."""
        known = self._made.get(name)
        if known is None or known[0] != of:
            known = self._made[name] = (of, make())
        made: Made = known[1]  # one name, one type
        return made

    def parsed(self, name: str, parse: Callable[[bytes], Made]) -> Made:
        """Return what `parse` makes of `lines`; a text that did not change is not parsed again.

        Raises:
            OSError, Unparsable: as `lines`, and as `parse`.
        """
        text = self.lines(name)
        return self.made(name, text, lambda: parse(text))


def read_file(path: str) -> bytes:
    """Return a file's content, at most 1 MiB of it.

    Raises:
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> bytes:
    text = os.pread(fd, _CHUNK, 0)
    # A file of /proc may give a part of what it has; only its end is empty.
    while _SHORT <= len(text) < _MAX_FILE:
        more = os.pread(fd, _CHUNK, len(text))
        if not more:
            break
        text += more
    return text


def number(word: bytes) -> int:
    """Parse an unsigned decimal counter of at most 20 digits (2^64).

    Raises:
        Unparsable: it is none.
    """
    if not word.isdigit() or len(word) > 20:
        raise Unparsable("no counter")
    return int(word)


def line_after(text: bytes, start: bytes) -> bytes:
    """Return what follows `start` up to the end of its line: less work than to divide the text into lines.

    Raises:
        Unparsable: `start` is not there.
    """
    at = text.find(start)
    if at < 0:
        raise Unparsable("a line is missing")
    at += len(start)
    end = text.find(b"\n", at)
    return text[at:] if end < 0 else text[at:end]


def gather(collectors: tuple[tuple[str, Collect], ...], roots: Roots, into: dict[str, int]) -> list[str]:
    """Run each collector, put what it found into `into`, return the names of those that failed."""
    failed = []
    for name, collect in collectors:
        try:
            into.update(collect(roots))
        except (OSError, ValueError):
            failed.append(name)
    return failed
