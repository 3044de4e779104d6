# SPDX-License-Identifier: LGPL-2.1-or-later
"""In dom0: all ARP that comes in by any port, and what dom0 itself sends, taken to a `Watch`.

One socket is bound to no interface and takes ARP alone: all other packets cost it three instructions of BPF.
What dom0 sends is taken at the bridges themselves, so that packets from VM to VM are not copied for it.
"""

from __future__ import annotations

import os
from _socket import AF_PACKET, SO_RCVBUF, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_RAW, SOL_SOCKET
from _socket import socket as Socket  # noqa: N812  as in sockets.py
from sys import byteorder

from xenwarden_channel import paths
from xenwarden_channel.messages import encode, format_number
from xenwarden_channel.signals import ARP_RATES
from xenwarden_guest.collectors import interfaces, read_file
from xenwarden_guest.vsem import bpf
from xenwarden_guest.vsem.arp import DOM0, FRAME_BYTES, Watch, parse, question
from xenwarden_guest.vsem.sockets import attach

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots
    from xenwarden_guest.collectors.interfaces import Interface
    from xenwarden_guest.vsem.arp import Party, Told

_ETH_P_ALL = 3
_ALL_INTERFACES = int.from_bytes(_ETH_P_ALL.to_bytes(2, "big"), byteorder)  # as socket() wants it
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_SO_RCVBUFFORCE = 33
_BUFFER = 1 << 20  # what comes between two looks
_MOST_PACKETS = 2000  # that are taken in at one look
_FIND_S = 5.0
RESTLESS_S = 1.0  # between looks while there is something to tell
_HOST = b"/32 host LOCAL"


class _Port:
    """Whose interface it is, and of which segment."""

    __slots__ = ("is_bridge", "party", "segment")

    def __init__(self, roots: Roots, name: str) -> None:
        self.is_bridge = is_bridge(roots, name)
        try:
            master = os.readlink(f"{roots.sys}/class/net/{name}/master")  # noqa: PTH115  pathlib costs 1 MB
        except OSError:
            master = name
        self.segment = master.rpartition("/")[2]
        self.party = party_of(name)


def is_bridge(roots: Roots, name: str) -> bool:
    """Say whether an interface is a bridge."""
    return os.path.lexists(f"{roots.sys}/class/net/{name}/bridge")


def domid_of(name: str) -> int:
    """Return the domid of an interface's name, as `vif7.0` and `vif7.0-emu` have it; -1 where it has none."""
    number, dot, _device = name.removeprefix("vif").partition(".")
    return int(number) if name.startswith("vif") and dot and number.isdigit() and len(number) < 6 else -1


def party_of(name: str) -> Party:
    """Return who is behind an interface: a domain, or whatever is outside."""
    domid = domid_of(name)
    return name if domid < 0 else domid


def own_addresses(text: bytes) -> set[bytes]:
    """Return the machine's own IPv4 addresses, as /proc/net/fib_trie has them."""
    found, last = set(), b""
    for line in text.splitlines():
        word = line.strip()
        if word == _HOST and last:
            found.add(last)
        elif word.startswith((b"|-- ", b"+-- ")):
            last = _address(word[4:])
    return found


def _address(text: bytes) -> bytes:
    parts = text.split(b".")
    if len(parts) != 4 or not all(part.isdigit() and len(part) < 4 and int(part) < 256 for part in parts):
        return b""
    return bytes([int(part) for part in parts])


class Segments:
    """dom0's ears for ARP."""

    __slots__ = ("_bridges", "_found_s", "_incoming", "_ports", "_roots", "failed", "watch")

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._incoming: Socket | None = None
        self._bridges: dict[str, tuple[Interface, Socket]] = {}
        self._ports: dict[str, _Port] = {}
        self._found_s = float("-inf")
        self.watch = Watch()
        self.failed = False

    def look(self, seq: int, now_s: float) -> bytes | None:
        """Take in what came since the last look; return the message of what there is to tell."""
        try:
            incoming = self._open()
            if now_s - self._found_s >= _FIND_S:
                self._found_s = now_s
                self._find()
            for name, (_bridge, sock) in self._bridges.items():  # dom0's questions before their answers
                self._take(sock, name, now_s)
            self._take(incoming, "", now_s)
            self._ask(now_s)
            self.failed = False
        except OSError:  # an interface went away, or the kernel refuses: begin anew
            self.failed = True
            self.close()
            return None
        told = self.watch.finish(now_s)
        return message(seq, told) if told else None

    def wait_s(self, now_s: float, interval_s: float) -> float:
        """Return how long to wait for the next look; `interval_s` where nothing is going on."""
        return RESTLESS_S if self.watch.restless(now_s) else interval_s

    def _open(self) -> Socket:
        if self._incoming is None:
            self._incoming = sock = _socket(_ALL_INTERFACES, sent=False)
            sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            self._take(sock, "", None)  # what came before its filter
        return self._incoming

    def _find(self) -> None:
        """Follow what came and went among interfaces and dom0's addresses."""
        names = interfaces.names(self._roots)
        self._ports = {}  # each is looked at anew: it may have become part of another bridge
        bridges = [name for name in names if is_bridge(self._roots, name)]
        found = {interface.name: interface for interface in interfaces.read(self._roots, bridges)}
        for name, (interface, sock) in list(self._bridges.items()):
            if found.get(name) != interface:
                sock.close()
                del self._bridges[name]
        for name, interface in found.items():
            if name not in self._bridges:
                sock = _socket(0, sent=True)  # protocol 0: nothing arrives before it is bound
                self._bridges[name] = (interface, sock)
                sock.bind((name, _ETH_P_ALL))
        self.watch.keep({DOM0, *map(party_of, names)})
        self.watch.own = own_addresses(read_file(self._roots.proc + "/net/fib_trie"))

    def _take(self, sock: Socket, bridge: str, now_s: float | None) -> None:
        """Take in what a socket got; without a time, throw it away."""
        for _ in range(_MOST_PACKETS):
            try:
                frame, (name, *_more) = sock.recvfrom(FRAME_BYTES)
            except BlockingIOError:
                return
            packet = parse(frame)
            if packet is None or now_s is None:
                continue
            if bridge:
                self.watch.take(bridge, DOM0, packet, now_s)
                continue
            port = self._ports.get(name)
            if port is None:
                port = self._ports[name] = _Port(self._roots, name)
            if not port.is_bridge:  # there it passes again what came in by a port
                self.watch.take(port.segment, port.party, packet, now_s)

    def _ask(self, now_s: float) -> None:
        for segment, address in self.watch.questions(now_s):
            bridge, sock = self._bridges.get(segment, (None, None))
            if bridge is not None and sock is not None and len(bridge.address) == 6:
                sock.send(question(address, bridge.address))

    def close(self) -> None:
        """Give all sockets back."""
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None
        for _interface, sock in self._bridges.values():
            sock.close()
        self._bridges = {}
        self._found_s = float("-inf")


def _socket(protocol: int, *, sent: bool) -> Socket:
    sock = Socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
    attach(sock, bpf.arp_only(FRAME_BYTES, sent=sent))
    try:
        sock.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except OSError:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, _BUFFER)
    return sock


def message(seq: int, told: dict[int, Told]) -> bytes:
    """Return what the node shall hold: those domains of which most is to be told."""
    worst = sorted(told, key=lambda domid: (told[domid].claims, told[domid].claimed, told[domid].asked))
    domids = worst[: -paths.MAX_ARP - 1 : -1]
    fields = {"domids": ",".join(map(str, domids))}
    for name in ARP_RATES:
        fields[name] = ",".join([format_number(getattr(told[domid], name)) for domid in domids])
    return encode("arp", seq, fields)
