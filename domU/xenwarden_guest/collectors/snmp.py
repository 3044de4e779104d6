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
_WANTED6 = (b"\nUdp6InErrors ", b"\nUdp6SndbufErrors ", b"\nIcmp6InDestUnreachs ", b"\nIcmp6InTimeExcds ")


def collect(roots: Roots) -> dict[str, int]:
    """Return tcp_opens, tcp_accepts, tcp_fails, tcp_retrans, udp_errors, and tcp_established: those open now.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else.
    """
    counters = roots.parsed("net/snmp", parse)
    try:
        errors6 = roots.parsed("net/snmp6", parse6)
    except FileNotFoundError:
        return counters  # no IPv6: nothing is missing
    return {**counters, "udp_errors": counters["udp_errors"] + errors6}


def parse(text: bytes) -> dict[str, int]:
    """Parse pairs of lines, names and values, per protocol.

    Raises:
        Unparsable: a protocol that we count is not there.
    """
    found: dict[str, int] = {}
    for protocol, wanted in _WANTED.items():
        names = line_after(text, protocol)
        values = line_after(text, names + b"\n" + protocol).split()
        for name, value in zip(names.split(), values, strict=False):
            if name in wanted:
                found[wanted[name]] = found.get(wanted[name], 0) + number(value)
    if len(found) != 6:
        raise Unparsable("protocol counters not found")
    return found


def parse6(text: bytes) -> int:
    """Return the sum of IPv6's UDP errors and ICMPv6 errors received.

    Raises:
        Unparsable: one is missing or no counter.
    """
    return sum([number(line_after(text, name).strip()) for name in _WANTED6])
