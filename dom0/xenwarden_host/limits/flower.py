# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which packets are of a class, in the keys of the kernel's flower classifier. Pure.

The filters are of `protocol all` with an `eth_type`: so the kernel looks for IP behind any VLAN and priority
tags, which a neighbour may strip. A packet whose class cannot be seen counts as one of each class that it
may be: a fragment, IPv6 behind more headers than the kernel goes through, what has that many tags.
"""

from __future__ import annotations

from xenwarden_host.limits.rtnetlink import attribute
from xenwarden_host.records import PacketClass

# linux/pkt_cls.h, linux/if_ether.h
ACT = 3
_ETH_TYPE, _IP_PROTO, _FLAGS, _NUM_OF_VLANS = 8, 9, 22, 102
_KEY_FLAGS, _ICMP_TYPE, _ICMPV6_TYPE, _TCP_FLAGS = 47, 51, 55, 71  # of each the mask is the next number
_PORT_DST_MIN, _PORT_DST_MAX = 89, 90
_IPV4, _IPV6, _ARP, _VLAN, _SERVICE_VLAN = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8


def _protocol(number: int, key: int = 0, value: bytes = b"", mask: bytes = b"") -> bytes:
    """Return what matches an IP protocol, and one key more where it is given."""
    more = attribute(key, value) + attribute(key + 1, mask) if key else b""
    return attribute(_IP_PROTO, bytes([number])) + more


# Of a fragment, and of what stands behind too many headers, the kernel reads no flags and no type: zero.
_SYN = _protocol(6, _TCP_FLAGS, b"\0\x02", b"\0\x12")
_TCP_UNSEEN = _protocol(6, _TCP_FLAGS, b"\0\0", b"\x0f\xff")
# Services, and what no port is read of: it is zero. Linux gives clients ports from 32768 on, others 49152.
_TO_SERVICE = (
    _protocol(6) + attribute(_PORT_DST_MIN, b"\0\0") + attribute(_PORT_DST_MAX, (32767).to_bytes(2, "big"))
)
_ECHO = _protocol(1, _ICMP_TYPE, b"\x08", b"\xff")
_ICMP_FRAGMENT = _protocol(1, _KEY_FLAGS, b"\0\0\0\1", b"\0\0\0\1")  # type 0 is a reply
_ECHO6 = _protocol(58, _ICMPV6_TYPE, b"\x80", b"\xff")
_ICMP6_UNSEEN = _protocol(58, _ICMPV6_TYPE, b"\0", b"\xff")
# The kernel goes through 16 headers (MAX_FLOW_DISSECT_HDRS); a receiver may go through any number of tags
# and IPv6 extensions (routing, fragment, options). A kernel before 5.19 does not count tags, and takes
# these two filters for all tagged frames.
_TOO_MANY = attribute(_NUM_OF_VLANS, b"\x10")
_UNSEEN_TAGGED = tuple((tag, _TOO_MANY) for tag in (_VLAN, _SERVICE_VLAN))
_UNSEEN = (*((_IPV6, _protocol(extension)) for extension in (43, 44, 60)), *_UNSEEN_TAGGED)
# The filters of each class: type of frame, and what else must match. The first that matches takes the packet.
MATCHES: dict[PacketClass, tuple[tuple[int, bytes], ...]] = {
    PacketClass.SYN: (
        *((_IPV4, _SYN), (_IPV6, _SYN), (_IPV4, _TCP_UNSEEN), (_IPV6, _TCP_UNSEEN)),
        *_UNSEEN,
    ),
    PacketClass.UDP: ((_IPV4, _protocol(17)), (_IPV6, _protocol(17)), *_UNSEEN),
    PacketClass.ICMP: (
        *((_IPV4, _ECHO), (_IPV6, _ECHO6), (_IPV4, _ICMP_FRAGMENT), (_IPV6, _ICMP6_UNSEEN)),
        *_UNSEEN,
    ),
    PacketClass.TCP: ((_IPV4, _TO_SERVICE), (_IPV6, _TO_SERVICE), *_UNSEEN),
    PacketClass.ARP: ((_ARP, b""), *_UNSEEN_TAGGED),
}


def options(match: tuple[int, bytes], action: bytes) -> bytes:
    """Return the options of the flower filter that hands what matches to `action`."""
    frame, keys = match
    return (
        keys
        + attribute(ACT, attribute(1, action))
        + attribute(_FLAGS, bytes(4))
        + attribute(_ETH_TYPE, frame.to_bytes(2, "big"))
    )
