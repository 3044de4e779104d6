# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pressure stall information: /proc/pressure/{cpu,memory,io}."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

_FILES = (("cpu", "psi_cpu_usecs"), ("memory", "psi_mem_usecs"), ("io", "psi_io_usecs"))


def collect(roots: Roots) -> dict[str, int]:
    """Return psi_cpu_usecs, psi_mem_usecs and psi_io_usecs: time some task waited, since boot.

    Raises:
        OSError: no such file, or the kernel was started without PSI.
        Unparsable: it holds something else.
    """
    return {key: parse(roots.lines("pressure/" + name)) for name, key in _FILES}


def parse(text: bytes) -> int:
    """Return the total of the `some` line, in microseconds.

    Raises:
        Unparsable: there is none.
    """
    for line in text.split(b"\n"):
        if line.startswith(b"some "):
            _, mark, total = line.partition(b"total=")
            if mark:
                return number(total.strip())
    raise Unparsable("no total")
