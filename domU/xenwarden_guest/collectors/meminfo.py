# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory and swap: /proc/meminfo."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, line_after, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

_WANTED = {
    "mem_total_kb": b"MemTotal:",
    "mem_available_kb": b"\nMemAvailable:",
    "swap_total_kb": b"\nSwapTotal:",
    "swap_free_kb": b"\nSwapFree:",
}


def collect(roots: Roots) -> dict[str, int]:
    """Return mem_total_kb, mem_available_kb, swap_total_kb and swap_free_kb.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else.
    """
    return parse(roots.lines("meminfo"))


def parse(text: bytes) -> dict[str, int]:
    """Parse the four lines wanted.

    Raises:
        Unparsable: one of them is missing or malformed.
    """
    found = {}
    for key, start in _WANTED.items():
        words = line_after(text, start).split()
        if not words:
            raise Unparsable("no value")
        found[key] = number(words[0])
    return found
