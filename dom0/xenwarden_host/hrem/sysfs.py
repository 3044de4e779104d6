# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read small numbers from sysfs, many at a time. Devices come and go: what is not there is left out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_BYTES = 32


def listing(directory: str) -> list[str]:
    """Return the names in `directory`; none where there is no such directory."""
    try:
        return os.listdir(directory)  # noqa: PTH208 - a hot path
    except OSError:
        return []


def numbers(directory: str, names: Mapping[str, str]) -> dict[str, int]:
    """Return the number in each file `names` of `directory`, under the name that it maps to.

    Empty where any cannot be read: the device is coming or going.
    """
    out = {}
    try:
        for name, signal in names.items():
            fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                out[signal] = int(os.read(fd, _MAX_BYTES))
            finally:
                os.close(fd)
    except (OSError, ValueError):
        return {}
    return out
