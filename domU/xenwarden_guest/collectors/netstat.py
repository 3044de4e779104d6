# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's further TCP counters: /proc/net/netstat."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, line_after, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

_DROPS = b" ListenDrops "  # ListenOverflows, a full queue of connections to be accepted, is part of it
# The line of names, and where in it the counter stands: a kernel prints the same ever again.
_place: tuple[bytes, int] = (b"", 0)


def collect(roots: Roots) -> dict[str, int]:
    """Return tcp_drops: connections to the VM that were dropped because a queue of a service was full.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else.
    """
    return {"tcp_drops": roots.parsed("net/netstat", parse)}


def parse(text: bytes) -> int:
    """Return the counter of the two lines, names and values, of TCP's extensions.

    Raises:
        Unparsable: it is not there.
    """
    global _place  # noqa: PLW0603  a cache of one line
    names = line_after(text, b"TcpExt:")
    if _place[0] != names:
        before, there, _after = names.partition(_DROPS)
        if not there:
            raise Unparsable("counter not found")
        _place = (names, before.count(b" "))
    at = _place[1]
    values = line_after(text, names + b"\nTcpExt:").split(None, at + 1)
    if len(values) <= at:
        raise Unparsable("no value")
    return number(values[at])
