# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read small files of the kernel, many at a time. Devices come and go: what is not there is left out."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Collection, Iterable, Mapping

_MAX_BYTES = 32


def listing(directory: str) -> list[str]:
    """Return the names in `directory`; none where there is no such directory."""
    try:
        return os.listdir(directory)  # noqa: PTH208 - a hot path
    except OSError:
        return []


def by_domid(names: Iterable[str], pattern: re.Pattern[str]) -> dict[int, list[str]]:
    """Return the names that match, by the domid that the pattern's first group holds."""
    found: dict[int, list[str]] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), []).append(name)
    return found


def word(path: str) -> bytes:
    """Return the short line that a file of the kernel's holds; empty where it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _MAX_BYTES).strip()
    except OSError:
        return b""
    finally:
        os.close(fd)


class Files:
    """Files of sysfs that are kept open: to read one again is one system call instead of three.

    A file of a device that is gone fails to be read, even if another device has its name by then. An open
    one costs the kernel some 4 kB. At most three quarters of this process's descriptors are kept;
    what is beyond is opened each time.
    """

    def __init__(self) -> None:
        self._open: dict[str, list[tuple[str, int]]] = {}  # directory: counters and their descriptors
        self._left = resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4

    def numbers(self, directory: str, names: Mapping[str, str]) -> dict[str, int]:
        """Return the number in each file `names` of `directory`, under the name that it maps to.

        Empty where any cannot be read: the device is coming or going. Always the same `names` of one
        directory.
        """
        files = self._open.get(directory)
        if files is None:
            return self._first(directory, names)
        try:
            return {name: int(os.pread(fd, _MAX_BYTES, 0)) for name, fd in files}
        except (OSError, ValueError):
            self._forget(directory)
            return {}

    def keep_only(self, parents: Collection[str]) -> None:
        """Close the files of directories that lie not in one of `parents`: their devices are gone."""
        for directory in [path for path in self._open if path.rpartition("/")[0] not in parents]:
            self._forget(directory)

    def close(self) -> None:
        """Close all files."""
        self.keep_only(())

    def _first(self, directory: str, names: Mapping[str, str]) -> dict[str, int]:
        files: list[tuple[str, int]] = []
        try:
            for name, counter in names.items():
                files.append((counter, os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)))
            found = {counter: int(os.pread(fd, _MAX_BYTES, 0)) for counter, fd in files}
        except (OSError, ValueError):
            found = {}
        if found and len(files) <= self._left:
            self._open[directory] = files
            self._left -= len(files)
        else:
            _close(files)
        return found

    def _forget(self, directory: str) -> None:
        files = self._open.pop(directory)
        self._left += len(files)
        _close(files)


def _close(files: list[tuple[str, int]]) -> None:
    for _counter, fd in files:
        os.close(fd)
