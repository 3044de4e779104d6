# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames of every kind that the agent looks at, each with its class; payload is recognisable."""

from __future__ import annotations

PAYLOAD = b"\xa5SECRET\x5a" * 40
A4, B4 = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 7])
A6, B6 = bytes.fromhex("20010db8000000000000000000000001"), bytes.fromhex("20010db8000000ff00000000000000b7")
SYN, SYNACK, RST, RSTACK, ACK, PSH, FIN, SYNRST = 0x02, 0x12, 0x04, 0x14, 0x10, 0x18, 0x11, 0x06


def ethernet(
    kind: int, body: bytes, *tags: int, dest: bytes = b"\xff" * 6, source: bytes = b"\x02\0\0\0\0\x01"
) -> bytes:
    vlans = b"".join(tag.to_bytes(2, "big") + b"\x00\x05" for tag in tags)
    return dest + source + vlans + kind.to_bytes(2, "big") + body


def ipv4(
    protocol: int,
    body: bytes,
    *,
    fragment: int = 0,
    options: bytes = b"",
    ihl: int | None = None,
    dest: bytes = B4,
) -> bytes:
    words = 5 + len(options) // 4 if ihl is None else ihl
    head = bytes([0x40 | words, 0]) + (20 + len(options) + len(body)).to_bytes(2, "big") + b"\x12\x34"
    head += fragment.to_bytes(2, "big") + bytes([64, protocol])
    # A bridge with netfilter drops a wrong checksum.
    summed = head + A4 + dest + options
    total = sum(int.from_bytes(summed[at : at + 2], "big") for at in range(0, len(summed), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return head + (total ^ 0xFFFF).to_bytes(2, "big") + A4 + dest + options + body


def ipv6(protocol: int, body: bytes, dest: bytes = B6) -> bytes:
    return b"\x60\0\0\0" + len(body).to_bytes(2, "big") + bytes([protocol, 64]) + A6 + dest + body


def tcp(flags: int, *, offset: int = 5, options: bytes = b"", payload: bytes = PAYLOAD) -> bytes:
    head = (40000).to_bytes(2, "big") + (443).to_bytes(2, "big") + b"\x11" * 8
    return head + bytes([offset << 4, flags]) + b"\x20\0\0\0\0\0" + options + payload


def udp(payload: bytes = PAYLOAD) -> bytes:
    return (
        (40000).to_bytes(2, "big")
        + (53).to_bytes(2, "big")
        + (8 + len(payload)).to_bytes(2, "big")
        + b"\0\0"
        + payload
    )


def icmp(kind: int) -> bytes:
    return bytes([kind, 0, 0, 0]) + b"\0\1\0\1" + PAYLOAD


def arp(operation: int = 1) -> bytes:
    return (
        b"\0\1\x08\0\x06\x04"
        + operation.to_bytes(2, "big")
        + b"\x02\0\0\0\0\x01"
        + A4
        + bytes(6)
        + B4
        + PAYLOAD[:18]
    )


def hop(following: int) -> bytes:
    return bytes([following, 0]) + bytes(6)


def fragment6(following: int, offset: int) -> bytes:
    return bytes([following, 0]) + (offset << 3 | 1).to_bytes(2, "big") + b"\0\0\0\7"


V4, V6, ARP = 0x0800, 0x86DD, 0x0806

# name: (frame, class without direction; "other" is not counted by itself)
FRAMES: dict[str, tuple[bytes, str]] = {
    "tcp4 syn": (ethernet(V4, ipv4(6, tcp(SYN))), "syn"),
    "tcp4 syn with data": (ethernet(V4, ipv4(6, tcp(SYN, offset=8, options=b"\x01" * 12))), "syn"),
    "tcp4 synack": (ethernet(V4, ipv4(6, tcp(SYNACK))), "synack"),
    "tcp4 rst": (ethernet(V4, ipv4(6, tcp(RST))), "rst"),
    "tcp4 rstack": (ethernet(V4, ipv4(6, tcp(RSTACK))), "rst"),
    "tcp4 syn rst": (ethernet(V4, ipv4(6, tcp(SYNRST))), "rst"),
    "tcp4 ack": (ethernet(V4, ipv4(6, tcp(ACK))), "other"),
    "tcp4 data": (ethernet(V4, ipv4(6, tcp(PSH))), "other"),
    "tcp4 fin": (ethernet(V4, ipv4(6, tcp(FIN))), "other"),
    "tcp4 options": (ethernet(V4, ipv4(6, tcp(SYN), options=b"\x01" * 40)), "syn"),
    "tcp4 offset says nothing": (ethernet(V4, ipv4(6, tcp(SYN, offset=0))), "syn"),
    "tcp4 offset says too much": (ethernet(V4, ipv4(6, tcp(SYN, offset=15))), "syn"),
    "tcp4 vlan": (ethernet(V4, ipv4(6, tcp(SYN)), 0x8100), "syn"),
    "tcp4 qinq": (ethernet(V4, ipv4(6, tcp(SYN)), 0x88A8, 0x8100), "syn"),
    "udp4": (ethernet(V4, ipv4(17, udp())), "udp"),
    "udp4 vlan": (ethernet(V4, ipv4(17, udp()), 0x8100), "udp"),
    "udp4 first fragment": (ethernet(V4, ipv4(17, udp(), fragment=0x2000)), "udp"),
    "udp4 later fragment": (ethernet(V4, ipv4(17, PAYLOAD, fragment=0x2010)), "udp"),
    "tcp4 later fragment": (ethernet(V4, ipv4(6, PAYLOAD, fragment=0x0010)), "other"),
    "icmp4 echo": (ethernet(V4, ipv4(1, icmp(8))), "icmp"),
    "icmp4 timestamp": (ethernet(V4, ipv4(1, icmp(13))), "icmp"),
    "icmp4 reply": (ethernet(V4, ipv4(1, icmp(0))), "other"),
    "icmp4 unreachable": (ethernet(V4, ipv4(1, icmp(3))), "other"),
    "sctp4": (ethernet(V4, ipv4(132, PAYLOAD)), "other"),
    "ipv4 short header": (ethernet(V4, ipv4(6, tcp(SYN), ihl=4)), "other"),
    "ipv4 options that are none": (ethernet(V4, ipv4(17, PAYLOAD, ihl=15)), "udp"),
    "ipv6 extension that is none": (ethernet(V6, ipv6(0, b"\x11\x10" + PAYLOAD)), "udp"),
    "ipv4 no header": (ethernet(V4, b"\x45"), "other"),
    "tcp6 syn": (ethernet(V6, ipv6(6, tcp(SYN))), "syn"),
    "tcp6 synack vlan": (ethernet(V6, ipv6(6, tcp(SYNACK)), 0x8100), "synack"),
    "tcp6 behind hop-by-hop": (ethernet(V6, ipv6(0, hop(6) + tcp(SYN))), "syn"),
    "tcp6 behind three": (ethernet(V6, ipv6(0, hop(60) + hop(43) + hop(6) + tcp(RST))), "rst"),
    "udp6": (ethernet(V6, ipv6(17, udp())), "udp"),
    "udp6 first fragment": (ethernet(V6, ipv6(44, fragment6(17, 0) + udp())), "udp"),
    "udp6 later fragment": (ethernet(V6, ipv6(44, fragment6(17, 20) + PAYLOAD)), "udp"),
    "tcp6 later fragment": (ethernet(V6, ipv6(44, fragment6(6, 20) + PAYLOAD)), "other"),
    "icmp6 echo": (ethernet(V6, ipv6(58, icmp(128))), "icmp"),
    "icmp6 neighbour": (ethernet(V6, ipv6(58, icmp(135))), "other"),
    "arp": (ethernet(ARP, arp()), "arp"),
    "lldp": (ethernet(0x88CC, PAYLOAD), "other"),
    "made-up type": (ethernet(0x88B5, PAYLOAD), "other"),
}
