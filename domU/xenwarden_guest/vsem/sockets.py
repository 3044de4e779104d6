# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's side of VSEM: sockets that count packets by class, and sockets that sample headers.

Counting: one PF_PACKET fan-out group per interface, one member socket per class. The group's BPF program
gives each packet the number of its class, and the kernel counts it in that member's PACKET_STATISTICS
whether or not it finds room in the (minimal, never read) queue. So classes are counted exactly, and user
space does nothing per packet. Sampling: one socket whose filter returns the headers' length. Each further
socket that sees all packets would cost every packet about 0.15 us.
"""

from __future__ import annotations

import os
from _socket import (
    AF_PACKET,
    SO_ERROR,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_RAW,
    SOL_SOCKET,
)
from _socket import socket as Socket  # noqa: N812  the class; the `socket` module around it costs 1 MB
from _struct import Struct
from mmap import mmap
from sys import byteorder

from xenwarden_guest.vsem import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors.interfaces import Interface
    from xenwarden_guest.vsem.plan import Plan

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python does not name it
# include/uapi/linux/if_packet.h
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _PACKET_FANOUT, _PACKET_FANOUT_DATA = 5, 6, 10, 18, 22
_FANOUT_CBPF, _FANOUT_FLAG_UNIQUEID = 6, 0x2000
_TPACKET_V2 = 1
_STATUS_USER, _STATUS_KERNEL = 1, bytes(4)
_OUTGOING = 4
# Of struct tpacket2_hdr: status, length taken, where the frame begins; of sockaddr_ll behind it: sll_pkttype.
_FRAME = Struct("=I4xIH28xB")
# The ring: per sample 256 bytes, of which the kernel's own take 66; no headers that count are longer.
FRAMES, _FRAME_BYTES, _BLOCK_BYTES = 256, 256, os.sysconf("SC_PAGE_SIZE")
# Where a bytes object keeps its bytes: the last member of PyBytesObject, which counts one byte of them.
# `array` and `ctypes` would tell, for 0.6 and 1.5 MB in every VM.
_BYTES_OFFSET = bytes.__basicsize__ - 1


def attach(sock: Socket, code: bytes, level: int = SOL_SOCKET, option: int = _SO_ATTACH_FILTER) -> None:
    """Hand a program to the kernel, as struct sock_fprog: its length, padding, and where it is."""
    address = id(code) + _BYTES_OFFSET
    program = (len(code) // 8).to_bytes(2, byteorder) + bytes(6) + address.to_bytes(8, byteorder)
    sock.setsockopt(level, option, program)


def _packet_socket() -> Socket:
    return Socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)  # protocol 0: nothing arrives yet


def _statistics(sock: Socket) -> tuple[int, int]:
    """Return (packets accepted, of these dropped for lack of room) since the last call."""
    raw = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
    return int.from_bytes(raw[:4], byteorder), int.from_bytes(raw[4:], byteorder)


class ClassCounter:
    """Counts one interface's packets by class, in the kernel.

    Raises:
        OSError: no CAP_NET_RAW, no such interface, or a kernel without fan-out by BPF.
    """

    __slots__ = ("_sockets",)

    def __init__(self, interface: Interface) -> None:
        self._sockets: list[Socket] = []
        try:
            group = _FANOUT_FLAG_UNIQUEID << 16
            for _ in bpf.CLASSES:
                sock = _packet_socket()
                self._sockets.append(sock)
                sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)  # the kernel's least: room for one packet
                attach(sock, bpf.counted_only())
                sock.bind((interface.name, _ETH_P_ALL))
                sock.setsockopt(
                    _SOL_PACKET, _PACKET_FANOUT, (group | _FANOUT_CBPF << 16).to_bytes(4, byteorder)
                )
                # The kernel chose the group's number for the first member; the others name it.
                group = int.from_bytes(sock.getsockopt(_SOL_PACKET, _PACKET_FANOUT, 4), byteorder) & 0xFFFF
            own_mac = interface.address if interface.bridge else b""
            code = bpf.classifier(own_mac, backend=interface.backend)
            attach(self._sockets[0], code, _SOL_PACKET, _PACKET_FANOUT_DATA)
            self.read()  # what came while the group was incomplete is in wrong classes
        except OSError:
            self.close()
            raise

    def read(self) -> list[int]:
        """Return how many packets of each of bpf.CLASSES passed since the last call.

        Raises:
            OSError: the interface was down or is gone; the group is void, make a new one.
        """
        # A member that saw its interface go down rejoins in any order when it comes up again.
        error = self._sockets[0].getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        return [_statistics(sock)[0] for sock in self._sockets]

    def close(self) -> None:
        """Give the sockets back."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []


class HeaderSampler:
    """Samples the headers of one interface's packets, both directions, each by a plan of its own.

    The kernel copies the headers into a ring that we map, TPACKET_V2 of packet_mmap.rst: a sample costs
    no system call, and bulk traffic cannot fill the queue with its large buffers.

    Raises:
        OSError: no CAP_NET_RAW or no such interface.
    """

    __slots__ = ("_backend", "_next", "_own_mac", "_ring", "_socket", "received", "sent")

    def __init__(self, interface: Interface, sent: Plan, received: Plan) -> None:
        self._own_mac = interface.address if interface.bridge else b""
        self._backend = interface.backend
        self._next = 0
        self._ring: mmap | None = None
        self._socket = _packet_socket()
        self.sent = sent
        self.received = received
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, _ring_request())
            self._ring = mmap(self._socket.fileno(), FRAMES * _FRAME_BYTES)
            self._filter()
            self._socket.bind((interface.name, _ETH_P_ALL))
        except OSError:
            self.close()
            raise

    def _filter(self) -> None:
        code = bpf.sampler(self.sent, self.received, self._own_mac, backend=self._backend)
        attach(self._socket, code)

    def follow(self, sent: Plan, received: Plan) -> None:
        """Sample by these plans from now on.

        Raises:
            OSError: the kernel refused the filter.
        """
        same = sent == self.sent and received == self.received
        self.sent, self.received = sent, received
        if not same:
            self._filter()

    def read(self) -> list[tuple[bool, bytes]]:
        """Return (sent or not, headers) of each sample since the last call, as many as the ring holds.

        Raises:
            OSError: the interface went down or is gone.
        """
        error = self._socket.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        ring = self._ring
        found: list[tuple[bool, bytes]] = []
        if ring is None:
            return found
        backend = self._backend
        for _ in range(FRAMES):
            at = self._next * _FRAME_BYTES
            status, size, mac, kind = _FRAME.unpack_from(ring, at)
            if not status & _STATUS_USER:
                break
            start = at + mac
            found.append(((kind == _OUTGOING) is not backend, ring[start : start + size]))
            ring[at : at + 4] = _STATUS_KERNEL
            self._next = (self._next + 1) % FRAMES
        return found

    @property
    def takes_all(self) -> bool:
        """Say whether every packet is sampled."""
        return self.sent.takes_all and self.received.takes_all

    def fileno(self) -> int:
        """Return the file to poll: readable while there is anything to `read`."""
        return self._socket.fileno()

    def counts(self) -> tuple[int, int]:
        """Return (packets chosen, of these lost because the ring was full) since the last call."""
        return _statistics(self._socket)

    def close(self) -> None:
        """Give socket and ring back."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._socket.close()


def _ring_request() -> bytes:
    """Return struct tpacket_req."""
    blocks = FRAMES * _FRAME_BYTES // _BLOCK_BYTES
    return b"".join([n.to_bytes(4, byteorder) for n in (_BLOCK_BYTES, blocks, _FRAME_BYTES, FRAMES)])
