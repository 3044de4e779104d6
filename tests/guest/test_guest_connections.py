# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who opened the connections that are open, and which of them one end holds up."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_guest.collectors import Unparsable, sockdiag
from xenwarden_guest.vsem.connections import Held, Looked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenwarden_guest.collectors.sockdiag import Connection

HTTP = 80
LISTEN, ESTABLISHED = 10, 1


def made(port: int = 40000, state: int = ESTABLISHED, *, inside: bool = False, **more: int) -> Connection:
    found = sockdiag.Connection(state, port, inside=inside, unread=0, unsent=0)
    for name, value in more.items():
        setattr(found, name, value)
    return found


def sends_bits(**more: int) -> Connection:
    """A request of which a bit is sent each ten seconds."""
    found = made(sent_segments=3, sent_bytes=290, since_sent_ms=4000, since_received_ms=24000)
    for name, value in more.items():
        setattr(found, name, value)
    return found


# What is done with connections, and whether the one who opened them holds them up.
WAYS = {
    "half a request, and bits of it": (sends_bits(), True),
    "the first bit after the half": (
        sends_bits(sent_segments=2, since_sent_ms=0, since_received_ms=10_000), True,
    ),
    "half a request, so far": (
        sends_bits(sent_segments=1, since_sent_ms=9000, since_received_ms=9000), False,
    ),
    "bits behind a TLS handshake, after two minutes": (
        sends_bits(sent_segments=15, sent_bytes=1900, received_segments=4), True,
    ),
    "an answer that is not read": (made(unread=900, since_received_ms=7000, since_sent_ms=7000), True),
    "an answer that comes": (made(unread=900, since_received_ms=100, since_sent_ms=8000), False),
    "an idle connection of a pool": (
        made(sent_segments=4, sent_bytes=800, received_segments=6, received_bytes=900,
             since_sent_ms=300_000, since_received_ms=299_900), False,
    ),
    "opened ahead of need": (made(since_sent_ms=60_000, since_received_ms=60_000), False),
    "a request to a server that hangs": (
        made(sent_segments=1, sent_bytes=700, since_sent_ms=30_000, since_received_ms=30_001), False,
    ),
    "a request that is sent again and again to a host that is gone": (
        made(sent_segments=0, since_sent_ms=2000, since_received_ms=30_000, unsent=700), False,
    ),
    "a large upload": (
        made(sent_segments=90_000, sent_bytes=130_000_000, since_sent_ms=1, since_received_ms=60_000), False,
    ),
    "signs of life each way": (
        made(sent_segments=9, sent_bytes=400, received_segments=9, received_bytes=400,
             since_sent_ms=1000, since_received_ms=9000), False,
    ),
}  # fmt: skip


def other_end(of: Connection) -> Connection:
    """Return what the server sees of it."""
    return made(
        HTTP,
        received_segments=of.sent_segments,
        received_bytes=of.sent_bytes,
        sent_segments=of.received_segments,
        sent_bytes=of.received_bytes,
        since_received_ms=of.since_sent_ms,
        since_sent_ms=of.since_received_ms,
        unsent=of.unread,
    )


@pytest.mark.parametrize("way", WAYS)
def test_only_who_keeps_a_server_waiting_holds_a_connection_up(way: str) -> None:
    connection, holds_up = WAYS[way]
    looked = Looked([made(22, LISTEN), connection])
    assert (looked.opened, looked.taken, looked.stalled) == (1, 0, 0)
    assert looked.stalling == holds_up


@pytest.mark.parametrize("way", WAYS)
def test_the_server_sees_the_same(way: str) -> None:
    connection, holds_up = WAYS[way]
    looked = Looked([made(HTTP, LISTEN), other_end(connection)])
    assert (looked.opened, looked.taken, looked.stalling) == (0, 1, 0)
    assert looked.stalled == holds_up


def test_connections_of_a_vm_to_itself_harm_nobody() -> None:
    inside = [sends_bits(inside=1) for _ in range(9)]
    looked = Looked([made(HTTP, LISTEN), *inside, *(made(HTTP, inside=True) for _ in inside)])
    assert (looked.opened, looked.taken, looked.stalling, looked.stalled) == (9, 9, 0, 0)


def test_a_proxy_is_not_blamed_for_what_it_hands_on() -> None:
    served = [made(HTTP, LISTEN), *(other_end(sends_bits()) for _ in range(200))]
    looked = Looked([*served, *(sends_bits() for _ in range(200))])
    assert looked.signals(1.0) == {"tcp_stalling": 0, "tcp_stalled": 200}


def test_of_too_many_the_share_counts() -> None:
    looked = Looked([sends_bits(), made(), made()])
    assert looked.signals(1000 / 3)["tcp_stalling"] == pytest.approx(333, abs=1)


class Kernel:
    """The kernel's counters, and what is really open."""

    def __init__(self) -> None:
        self.counters = {"tcp_opens": 0, "tcp_accepts": 0, "tcp_fails": 0, "tcp_established": 0}
        self.held = Held()
        self.held.follow({}, self.counters, 0.0)

    def step(self, *, opened: int = 0, accepted: int = 0, failed: int = 0, ended: int = 0) -> Held:
        before = dict(self.counters)
        self.counters["tcp_opens"] += opened
        self.counters["tcp_accepts"] += accepted
        self.counters["tcp_fails"] += failed
        self.counters["tcp_established"] += opened + accepted - failed - ended
        assert self.held.follow(before, self.counters, 5.0)
        return self.held


def test_who_opens_and_holds_is_seen_without_a_look_at_sockets() -> None:
    kernel = Kernel()
    for _ in range(4):
        kernel.step(opened=300)
    held = kernel.step()
    assert (held.opened, held.taken) == (1200, 0)
    held = kernel.step(ended=1200)
    assert (held.opened, held.taken) == (0, 0)


def test_a_servers_connections_are_those_of_others() -> None:
    kernel = Kernel()
    for _ in range(20):
        kernel.step(accepted=500, opened=5, ended=450)
    held = kernel.step(accepted=500, ended=500)
    assert held.taken == pytest.approx(1000, rel=0.1)
    assert held.opened < 60


def test_tries_that_fail_or_are_not_answered_yet_hold_nothing() -> None:
    kernel = Kernel()
    assert kernel.step(opened=1000, failed=1000).opened == 0
    kernel.counters["tcp_opens"] += 100  # on the way
    assert kernel.step().opened == 0
    before = dict(kernel.counters)
    kernel.counters["tcp_established"] += 100  # there
    kernel.held.follow(before, kernel.counters, 5.0)
    assert kernel.held.opened == 100


def test_what_a_look_found_is_gone_on_from() -> None:
    kernel = Kernel()
    kernel.step(opened=100, accepted=100)
    kernel.held.split(10, 30, 200)
    held = kernel.step()
    assert (held.opened, held.taken) == (50, 150)


def test_a_gap_in_the_counters_is_no_wave_of_connections() -> None:
    held = Held()
    now = {"tcp_opens": 5, "tcp_accepts": 995, "tcp_fails": 0, "tcp_established": 100}
    assert held.follow({"tcp_opens": 9, "tcp_accepts": 10**6, "tcp_fails": 0, "tcp_established": 1}, now, 5.0)
    assert held.taken == pytest.approx(99.5)
    assert not held.follow(now, {}, 5.0)


@given(
    steps=st.lists(
        st.tuples(*(st.integers(0, 1000) for _ in range(3)), st.integers(0, 3000)), min_size=1, max_size=20
    )
)
def test_both_kinds_together_are_always_what_is_open(steps: list[tuple[int, int, int, int]]) -> None:
    counters = {"tcp_opens": 0, "tcp_accepts": 0, "tcp_fails": 0, "tcp_established": 0}
    held = Held()
    held.follow({}, counters, 0.0)
    for opened, accepted, failed, established in steps:
        before = dict(counters)
        counters["tcp_opens"] += opened
        counters["tcp_accepts"] += accepted
        counters["tcp_fails"] += failed
        counters["tcp_established"] = established
        held.follow(before, counters, 1.0)
        assert held.opened >= 0
        assert held.taken >= 0
        assert held.opened + held.taken == pytest.approx(established)


# --- the kernel's own answers ---


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection, and who has accepted it, with different addresses."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(
            socket.create_connection(server.getsockname(), source_address=("127.0.0.2", 0))
        )
        yield client, stack.enter_context(server.accept()[0])


def look(*ends: socket.socket) -> list[Connection]:
    try:
        found, _whole = sockdiag.read(100_000)
    except OSError as refused:
        pytest.skip(f"this kernel tells nothing of sockets: {refused}")
    ports = [int.from_bytes(end.getsockname()[1].to_bytes(2, "big"), sys.byteorder) for end in ends]
    return [next(c for c in found if c.port == port and not c.listening) for port in ports]


def test_the_kernel_tells_what_went_each_way(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    for _ in range(3):
        client.send(b"X-a: b\r\n")
        server.recv(100)
    server.send(b"y" * 700)
    client.recv(100)
    opened, taken = look(client, server)
    assert not opened.inside
    assert (opened.sent_segments, taken.received_segments, taken.received_bytes) == (3, 3, 24)
    assert (taken.sent_segments, opened.received_segments, opened.received_bytes) == (1, 1, 700)
    assert opened.unread == 600
    assert 0 <= opened.since_sent_ms < 60_000
    looked = Looked(sockdiag.read(100_000)[0])
    assert looked.taken >= 1


def test_a_look_is_bounded(pair: tuple[socket.socket, socket.socket]) -> None:
    look(*pair)
    found, whole = sockdiag.read(1)
    assert found
    assert len(found) < 400  # one answer of each IP version, of 32 kB
    assert whole in (True, False)


def answer() -> bytes:
    """One answer of a kernel, with two sockets."""
    info = struct.pack("=44xI4xI44xI16xQQ16xII", 5, 9000, 1, 200, 0, 0, 3) + bytes(80)
    out = b""
    for state, port in ((LISTEN, HTTP), (ESTABLISHED, 40000)):
        body = struct.pack("=xB2xH2x16s16s16xII8x", state, port, b"a" * 16, b"b" * 16, 7, 8)
        body += struct.pack("=HHBxxx", 5, 8, 3) + struct.pack("=HH", 4 + len(info), 2) + info
        out += struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body
    return out


def test_an_answer_is_read_up_to_its_end() -> None:
    found: list[Connection] = []
    assert not sockdiag.parse(answer(), found)
    assert [(c.listening, c.unread, c.unsent, c.sent_segments, c.since_received_ms) for c in found] == [
        (True, 7, 8, 0, 0),
        (False, 7, 8, 2, 9000),
    ]
    assert sockdiag.parse(struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0), found)
    with pytest.raises(FileNotFoundError):
        sockdiag.parse(struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -2) + bytes(16), found)


@given(seed=st.integers(0, 2**32), cut=st.integers(0, 800), noise=st.binary(max_size=64))
def test_any_answer_is_sockets_or_none(seed: int, cut: int, noise: bytes) -> None:
    damaged = bytearray(answer()[:cut] + noise)
    dice = random.Random(seed)  # noqa: S311
    for _ in range(dice.randrange(4)):
        if damaged:
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    with contextlib.suppress(Unparsable, OSError):
        sockdiag.parse(bytes(damaged), [])
