# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's protocol counters: /proc/net/snmp, and /proc/net/snmp6 where IPv6 is on."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

# UDP's RcvbufErrors is part of InErrors; SndbufErrors stands alone.
_WANTED = {
    b"Tcp:": {b"ActiveOpens": "tcp_opens", b"AttemptFails": "tcp_fails", b"RetransSegs": "tcp_retrans"},
    b"Udp:": {b"InErrors": "udp_errors", b"SndbufErrors": "udp_errors"},
    b"Icmp:": {b"InDestUnreachs": "udp_errors", b"InTimeExcds": "udp_errors"},
}
# As lines of their own: searching is a fifth of the cost of splitting a hundred lines.
_WANTED6 = (b"\nUdp6InErrors ", b"\nUdp6SndbufErrors ", b"\nIcmp6InDestUnreachs ", b"\nIcmp6InTimeExcds ")


def collect(roots: Roots) -> dict[str, int]:
    """Return tcp_opens, tcp_fails, tcp_retrans and udp_errors.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else.
    """
    counters = parse(roots.lines("net/snmp"))
    try:
        text6 = roots.lines("net/snmp6")
    except FileNotFoundError:
        return counters  # no IPv6: nothing is missing
    counters["udp_errors"] += parse6(text6)
    return counters


def parse(text: bytes) -> dict[str, int]:
    """Parse pairs of lines, names and values, per protocol.

    Raises:
        Unparsable: a protocol that we count is not there.
    """
    found: dict[str, int] = {}
    lines = text.split(b"\n")
    for names, values in zip(lines, lines[1:], strict=False):  # noqa: RUF007  itertools is not needed else
        protocol, _, rest = names.partition(b" ")
        wanted = _WANTED.get(protocol)
        if wanted is None or not values.startswith(protocol + b" ") or not rest[:1].isalpha():
            continue
        for name, value in zip(rest.split(), values.split()[1:], strict=False):
            key = wanted.get(name)
            if key is not None:
                found[key] = found.get(key, 0) + number(value)
    if len(found) != 4:
        raise Unparsable("protocol counters not found")
    return found


def parse6(text: bytes) -> int:
    """Return the sum of IPv6's UDP errors and ICMPv6 errors received.

    Raises:
        Unparsable: one is missing or no counter.
    """
    total = 0
    for name in _WANTED6:
        _, found, rest = text.partition(name)
        if not found:
            raise Unparsable("IPv6 counters not found")
        total += number(rest[: rest.find(b"\n")].strip())
    return total
