# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory and swap: /proc/meminfo."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

_WANTED = {
    b"MemTotal": "mem_total_kb",
    b"MemAvailable": "mem_available_kb",
    b"SwapTotal": "swap_total_kb",
    b"SwapFree": "swap_free_kb",
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
    for line in text.split(b"\n"):
        name, _, rest = line.partition(b":")
        key = _WANTED.get(name)
        if key is not None:
            words = rest.split()
            if not words:
                raise Unparsable("no value")
            found[key] = number(words[0])
    if len(found) != len(_WANTED):
        raise Unparsable("memory not found")
    return found
