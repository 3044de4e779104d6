# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interface counters: /proc/net/dev."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

# Columns after the interface's name, as net/core/net-procfs.c prints them.
_RX_BYTES, _RX_PACKETS, _TX_BYTES, _TX_PACKETS, _TX_DROP = 0, 1, 8, 9, 11
_COLUMNS = 16

# rx_bytes, rx_packets, tx_bytes, tx_packets, tx_drop
Counters = tuple[int, int, int, int, int]


def collect(roots: Roots) -> dict[str, Counters]:
    """Return each interface's counters, as `parse` does.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else.
    """
    return roots.parsed("net/dev", parse)


def parse(text: bytes) -> dict[str, Counters]:
    """Return each interface's counters: (rx bytes, rx packets, tx bytes, tx packets, tx drops).

    Raises:
        Unparsable: no such table.
    """
    lines = text.split(b"\n")
    if len(lines) < 2 or b"|" not in lines[1]:
        raise Unparsable("no table of interfaces")
    found = {}
    for line in lines[2:]:
        name, colon, rest = line.rpartition(b":")
        if not colon:
            if line.strip():
                raise Unparsable("line without interface")
            continue
        words = rest.split()
        if len(words) < _COLUMNS:
            raise Unparsable("short line")
        try:
            device = name.strip().decode("ascii")
        except UnicodeDecodeError:
            raise Unparsable("strange name") from None
        found[device] = (
            number(words[_RX_BYTES]),
            number(words[_RX_PACKETS]),
            number(words[_TX_BYTES]),
            number(words[_TX_PACKETS]),
            number(words[_TX_DROP]),
        )
    return found
