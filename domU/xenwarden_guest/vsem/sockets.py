# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's side of VSEM: sockets that count packets by class, and sockets that sample headers.

Counting: one PF_PACKET fan-out group per interface, one member socket per class. The group's BPF program
gives each packet the number of its class, and the kernel counts it in that member's PACKET_STATISTICS
whether or not it finds room in the (minimal, never read) queue. So classes are counted exactly, and user
space does nothing per packet. Sampling: one socket per direction, whose filter returns the headers' length.
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
from array import array
from sys import byteorder

from xenwarden_guest.vsem import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors.interfaces import Interface

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python does not name it
# include/uapi/linux/if_packet.h
_SOL_PACKET = 263
_PACKET_STATISTICS, _PACKET_FANOUT, _PACKET_FANOUT_DATA = 6, 18, 22
_FANOUT_CBPF, _FANOUT_FLAG_UNIQUEID = 6, 0x2000
_HEADER_BYTES = 512  # the longest headers that a sampler can return are shorter than this by far


def _program(code: bytes) -> tuple[bytes, array[int]]:
    """Return struct sock_fprog, and the array it points to, which must outlive the call."""
    held = array("B", code)
    address, size = held.buffer_info()
    return (size // 8).to_bytes(2, byteorder) + bytes(6) + address.to_bytes(8, byteorder), held


def _attach(sock: Socket, level: int, option: int, code: bytes) -> None:
    pointer, _held = _program(code)
    sock.setsockopt(level, option, pointer)


def _packet_socket(receive_buffer: int) -> Socket:
    sock = Socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)  # protocol 0: nothing arrives yet
    if receive_buffer >= 0:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, receive_buffer)
    return sock


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
                sock = _packet_socket(0)
                self._sockets.append(sock)
                _attach(sock, SOL_SOCKET, _SO_ATTACH_FILTER, bpf.counted_only())
                sock.bind((interface.name, _ETH_P_ALL))
                sock.setsockopt(
                    _SOL_PACKET, _PACKET_FANOUT, (group | _FANOUT_CBPF << 16).to_bytes(4, byteorder)
                )
                # The kernel chose the group's number for the first member; the others name it.
                group = int.from_bytes(sock.getsockopt(_SOL_PACKET, _PACKET_FANOUT, 4), byteorder) & 0xFFFF
            own_mac = interface.address if interface.bridge else b""
            _attach(self._sockets[0], _SOL_PACKET, _PACKET_FANOUT_DATA, bpf.classifier(own_mac))
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
    """Samples the headers of one interface's packets in one direction.

    Raises:
        OSError: no CAP_NET_RAW or no such interface.
    """

    __slots__ = ("_buffer", "_outgoing", "_own_mac", "_socket", "shift")

    def __init__(self, interface: Interface, *, outgoing: bool) -> None:
        self._outgoing = outgoing
        self._own_mac = interface.address if interface.bridge else b""
        self._buffer = bytearray(_HEADER_BYTES)
        self._socket = _packet_socket(-1)
        self.shift = 0  # one packet in 2^shift is taken
        try:
            self._filter()
            self._socket.bind((interface.name, _ETH_P_ALL))
        except OSError:
            self.close()
            raise

    def _filter(self) -> None:
        code = bpf.sampler(
            outgoing=self._outgoing, threshold=bpf.SAMPLE_ALL >> self.shift, own_mac=self._own_mac
        )
        _attach(self._socket, SOL_SOCKET, _SO_ATTACH_FILTER, code)

    def take_one_in(self, shift: int) -> None:
        """Take one packet in 2^shift from now on.

        Raises:
            OSError: the kernel refused the filter.
        """
        if shift != self.shift:
            self.shift = shift
            self._filter()

    def read(self, most: int) -> list[bytes]:
        """Return the headers of at most `most` sampled packets.

        Raises:
            OSError: the interface went down or is gone.
        """
        found: list[bytes] = []
        buffer = self._buffer
        receive = self._socket.recv_into
        try:
            while len(found) < most:
                size = receive(buffer)
                found.append(bytes(buffer[:size]))
        except BlockingIOError:
            pass
        return found

    def lost(self) -> bool:
        """Say whether sampled packets found no room since the last call."""
        return _statistics(self._socket)[1] > 0

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
