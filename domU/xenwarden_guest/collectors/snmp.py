# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's protocol counters: /proc/net/snmp, and /proc/net/snmp6 where IPv6 is on."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, line_after, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

# UDP's RcvbufErrors is part of InErrors; SndbufErrors stands alone.
_WANTED = {
    b"Tcp:": {
        b"ActiveOpens": "tcp_opens",
        b"PassiveOpens": "tcp_accepts",
        b"AttemptFails": "tcp_fails",
        b"RetransSegs": "tcp_retrans",
        b"CurrEstab": "tcp_established",
    },
    b"Udp:": {b"InErrors": "udp_errors", b"SndbufErrors": "udp_errors"},
    b"Icmp:": {b"InDestUnreachs": "udp_errors", b"InTimeExcds": "udp_errors"},
}
# By protocol, the line of names and where in it what is wanted stands: a kernel prints the same ever again.
_places: dict[bytes, tuple[bytes, list[tuple[int, str]]]] = {}
_WANTED6 = (b"\nUdp6InErrors ", b"\nUdp6SndbufErrors ", b"\nIcmp6InDestUnreachs ", b"\nIcmp6InTimeExcds ")


def collect(roots: Roots) -> dict[str, int]:
    """Return tcp_opens, tcp_accepts, tcp_fails, tcp_retrans, udp_errors, and tcp_established: those open now.

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
    for protocol, wanted in _WANTED.items():
        names = line_after(text, protocol)
        values = line_after(text, names + b"\n" + protocol).split()
        known = _places.get(protocol)
        if known is None or known[0] != names:
            places = [(at, wanted[name]) for at, name in enumerate(names.split()) if name in wanted]
            known = _places[protocol] = (names, places)
        for at, key in known[1]:
            if at < len(values):
                found[key] = found.get(key, 0) + number(values[at])
    if len(found) != 6:
        raise Unparsable("protocol counters not found")
    return found


def parse6(text: bytes) -> int:
    """Return the sum of IPv6's UDP errors and ICMPv6 errors received.

    Raises:
        Unparsable: one is missing or no counter.
    """
    return sum([number(line_after(text, name).strip()) for name in _WANTED6])
