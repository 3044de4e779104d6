# SPDX-License-Identifier: LGPL-2.1-or-later
"""What packet limits dropped, as the kernel tells it over netlink."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_channel.fake import FakeStore
from xenwarden_host.limits import drops, rtnetlink
from xenwarden_host.limits.vif import DomainVifs

BASE = 0x7800_0000


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + b"\0" * (-len(value) % 4)


def action(index: int, dropped: int) -> bytes:
    options = attribute(1, struct.pack("=I", index) + bytes(52))
    queue = attribute(3, struct.pack("=IIIII", 0, 0, dropped, 0, dropped))
    return (
        attribute(1, b"police\0")
        + attribute(2 | 0x8000, options)
        + attribute(4, attribute(1, bytes(12)) + queue)
    )


def message(number: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), number, 2, 1, 0) + body


def dump(*actions: bytes) -> bytes:
    table = b"".join(attribute(order, raw) for order, raw in enumerate(actions))
    return message(50, bytes(4) + attribute(1, table) + attribute(3, struct.pack("=I", len(actions))))


DONE = message(3, bytes(4))


def test_drops_of_each_action_over_several_messages() -> None:
    bodies, done = rtnetlink.parse(dump(action(BASE | 16, 7), action(12, 1)) + dump(action(BASE | 17, 9)))
    assert (drops.parse(bodies), done) == ({BASE | 16: 7, 12: 1, BASE | 17: 9}, False)
    assert rtnetlink.parse(DONE) == ([], True)


def test_drops_of_a_domains_packet_classes_are_added_up() -> None:
    found = {
        BASE | 7 << 4 | 0: 100,
        BASE | 7 << 4 | 2: 11,
        BASE | 9 << 4 | 1: 5,
        BASE | 7 << 4 | 8: 5000,  # what was to reach domain 7
        12: 777,  # an admin's own
    }
    vifs = DomainVifs(FakeStore(), read_drops=lambda: found)
    assert vifs.police_drops() == {7: 111, 9: 5}


def test_kernels_error_is_one() -> None:
    with pytest.raises(OSError, match="95"):
        rtnetlink.parse(message(2, struct.pack("=i", -95) + bytes(16)))


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_datagram_is_drops_or_refused(noise: bytes, cut: int) -> None:
    whole = dump(action(BASE | 16, 7)) + DONE
    for data in (noise, whole[:cut], whole[: cut % 16] + noise + whole[cut:]):
        with contextlib.suppress(ValueError, OSError):
            bodies, _done = rtnetlink.parse(data)
            assert all(dropped >= 0 for dropped in drops.parse(bodies).values())


def test_real_kernel_answers() -> None:
    assert isinstance(drops.police_drops(), dict)
