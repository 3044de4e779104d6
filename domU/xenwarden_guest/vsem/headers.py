# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read one sampled frame's headers; total: any bytes give a header or None."""

from __future__ import annotations

_VLAN = (0x8100, 0x88A8)
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_TCP, _UDP = 6, 17
_SYN, _ACK = 0x02, 0x10
_PLAIN_IPV4 = b"\x08\x00\x45"  # no tag, no options
ARP_PROTOCOL = 256  # beyond IP's protocol numbers


class Header:
    """Who talks to whom: raw addresses (4 or 16 bytes), IP protocol (256 for ARP), ports, opening or not."""

    __slots__ = ("dest", "dest_port", "protocol", "source", "source_port", "syn")

    def __init__(self, source: bytes, dest: bytes, protocol: int) -> None:
        self.source = source
        self.dest = dest
        self.protocol = protocol
        self.source_port = 0
        self.dest_port = 0
        self.syn = False  # TCP SYN without ACK


def grouped(samples: list[tuple[bool, bytes]]) -> list[tuple[bool, Header, int]]:
    """Parse (sent or not, frame) samples; return how many say the same, each with `sent` and the header.

    Most of a stream's do, and to parse and count a header takes five times what telling it apart does.
    """
    frames: dict[tuple[bool, bytes, bytes, bytes], bytes] = {}
    counts: dict[tuple[bool, bytes, bytes, bytes], int] = {}
    for sent, frame in samples:
        if frame[12:15] == _PLAIN_IPV4:  # fragment, TTL and protocol; addresses and ports; TCP's flags
            key = sent, frame[20:24], frame[26:38], frame[47:]
        else:
            key = sent, frame, b"", b""
        frames[key] = frame
        counts[key] = counts.get(key, 0) + 1
    found = []
    for key, frame in frames.items():
        header = parse(frame)
        if header is not None:
            found.append((key[0], header, counts[key]))
    return found


def parse(frame: bytes) -> Header | None:
    """Return the header of an Ethernet frame that may end anywhere; None where there is no address."""
    at = 12
    kind = int.from_bytes(frame[at : at + 2], "big")
    for _ in range(2):
        if kind in _VLAN:
            at += 4
            kind = int.from_bytes(frame[at : at + 2], "big")
    at += 2
    if kind == _IPV4:
        return _ipv4(frame, at)
    if kind == _IPV6:
        return _ipv6(frame, at)
    if kind == _ARP and len(frame) >= at + 28:
        return Header(frame[at + 14 : at + 18], frame[at + 24 : at + 28], ARP_PROTOCOL)
    return None


def _ipv4(frame: bytes, at: int) -> Header | None:
    if len(frame) < at + 20:
        return None
    words = frame[at] & 0x0F
    if words < 5:
        return None
    header = Header(frame[at + 12 : at + 16], frame[at + 16 : at + 20], frame[at + 9])
    # Behind options the kernel lets nothing through; in a later fragment there are no ports.
    if words == 5 and not int.from_bytes(frame[at + 6 : at + 8], "big") & 0x1FFF:
        _ports(header, frame, at + 20)
    return header


def _ipv6(frame: bytes, at: int) -> Header | None:
    if len(frame) < at + 40:
        return None
    header = Header(frame[at + 8 : at + 24], frame[at + 24 : at + 40], frame[at + 6])
    _ports(header, frame, at + 40)
    return header


def _ports(header: Header, frame: bytes, at: int) -> None:
    if header.protocol in (_TCP, _UDP) and len(frame) >= at + 4:
        header.source_port = int.from_bytes(frame[at : at + 2], "big")
        header.dest_port = int.from_bytes(frame[at + 2 : at + 4], "big")
        if header.protocol == _TCP and len(frame) >= at + 14:
            header.syn = frame[at + 13] & (_SYN | _ACK) == _SYN


def address_text(address: bytes) -> str:
    """Return an address as people write it (IPv6 without `::`, as the kernel's own tables do)."""
    if len(address) == 4:
        return ".".join([str(byte) for byte in address])
    return ":".join([f"{int.from_bytes(address[at : at + 2], 'big'):x}" for at in range(0, len(address), 2)])


class Networks:
    """The provider's networks, as dom0 names them."""

    __slots__ = ("_networks",)

    def __init__(self, text: str = "") -> None:
        self._networks = [network for word in text.split(",") if (network := _network(word))]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def inside(self, address: bytes) -> bool:
        """Say whether an address is in one of the networks, or never leaves the link."""
        if address[:1] >= b"\xe0" and len(address) == 4:
            return True
        if len(address) == 16 and (address[0] == 0xFF or (address[0] == 0xFE and address[1] & 0xC0 == 0x80)):
            return True
        value = int.from_bytes(address, "big")
        return any(
            size == len(address) and value >> shift == prefix for size, prefix, shift in self._networks
        )


def _network(word: str) -> tuple[int, int, int] | None:
    """Parse a CIDR: (bytes of an address, prefix, bits behind it), None where it is none."""
    from _socket import AF_INET, AF_INET6, inet_pton  # noqa: PLC0415  only when an order comes

    text, _, bits_text = word.partition("/")
    try:
        raw = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
        bits = int(bits_text) if bits_text else len(raw) * 8
    except (OSError, ValueError):
        return None
    if not 0 <= bits <= len(raw) * 8:
        return None
    shift = len(raw) * 8 - bits
    return len(raw), int.from_bytes(raw, "big") >> shift, shift
