# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a classic BPF program on a frame, as the kernel does: for tests without privileges."""

from __future__ import annotations

import struct

OUTGOING, HOST, BROADCAST, OTHERHOST = 4, 0, 1, 3
_WORD = 0xFFFFFFFF


def decode(code: bytes) -> list[tuple[int, int, int, int]]:
    """Return the instructions as (opcode, true offset, false offset, operand)."""
    return list(struct.iter_unpack("=HBBI", code))


def run(  # noqa: PLR0915  a case for each instruction
    code: bytes, frame: bytes, packet_type: int, random: int = 0, *, fan_out: bool = False
) -> int:
    """Return what the program returns; a load beyond the frame ends it with 0.

    `fan_out`: it is a fan-out group's, whose data begins behind the Ethernet header of what is received.
    """
    data = 14 if fan_out and packet_type != OUTGOING else 0
    program = decode(code)
    a = x = at = 0
    scratch: dict[int, int] = {}
    while True:
        op, true, false, k = program[at]
        at += 1
        match op:
            case 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50:
                if op < 0x40 and k == 0xFFFFF004:
                    a = packet_type
                    continue
                if op < 0x40 and k == 0xFFFFF038:
                    a = random
                    continue
                if op < 0x40 and k == 0xFFFFF000:
                    assert data, "what is sent by a packet socket may say nothing of its protocol"
                    a = int.from_bytes(frame[12:14], "big")
                    continue
                offset = (k + (x if op >= 0x40 else 0)) & _WORD
                size = {0: 4, 8: 2, 16: 1}[op & 0x18]
                offset = offset - 0xFFE00000 if offset >= 0xFFE00000 else data + offset
                if offset + size > len(frame):
                    return 0
                a = int.from_bytes(frame[offset : offset + size], "big")
            case 0x00:
                a = k
            case 0x01:
                x = k
            case 0x60:
                a = scratch[k]
            case 0x61:
                x = scratch[k]
            case 0x02:
                scratch[k] = a
            case 0x03:
                scratch[k] = x
            case 0x04 | 0x0C:
                a = (a + (k if op == 0x04 else x)) & _WORD
            case 0x24:
                a = a * k & _WORD
            case 0x54:
                a &= k
            case 0x64:
                a = a << k & _WORD
            case 0x74:
                a >>= k
            case 0xA4 | 0xAC:
                a ^= k if op == 0xA4 else x
            case 0x07:
                x = a
            case 0x87:
                a = x
            case 0x05:
                at += k
            case 0x15:
                at += true if a == k else false
            case 0x25:
                at += true if a > k else false
            case 0x35:
                at += true if a >= k else false
            case 0x45:
                at += true if a & k else false
            case 0x06:
                return k
            case 0x16:
                return a
            case _:
                raise AssertionError(f"unknown opcode {op:#x}")
