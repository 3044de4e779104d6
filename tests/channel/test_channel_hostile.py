# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that do their worst, on both real daemons: dom0 and every other guest are served."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import xenstored_offline
from xenstore_worlds import Heard

from xenwarden_channel import errors, messages, paths, wire
from xenwarden_channel.client import StoreClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenstore_worlds import Wait
    from xenstored_offline import Ring, Xenstored

    from xenwarden_channel.guest import GuestStore

pytestmark = pytest.mark.xenstored

MALLORY, HONEST = 5, 6
REPORT = messages.encode("report", 1, {"level": "1", "tx_pps": 12.5})


@pytest.fixture
def store(xenstored: Xenstored) -> Iterator[StoreClient]:
    """dom0, watching both guests' reports as its daemon does."""
    xenstored.create(MALLORY)
    xenstored.create(HONEST)
    client = StoreClient(xenstored.socket)
    for domid in (MALLORY, HONEST):
        client.watch(paths.absolute(domid, paths.UP_REPORT), str(domid))
    yield client
    client.close()


@pytest.fixture
def mallory(xenstored: Xenstored, store: StoreClient) -> Ring:  # noqa: ARG001 - made by it
    """The attacker's bare ring: it can send what no client would."""
    return xenstored.ring(MALLORY)


@pytest.fixture
def honest(xenstored: Xenstored, store: StoreClient) -> GuestStore:  # noqa: ARG001 - made by it
    return xenstored.guest(HONEST)


def put(ring: Ring, path: str, value: bytes) -> bytes | None:
    """Write as the attacker; returns the error's name, None where it was written."""
    op, answer = ring.ask(wire.WRITE, path.encode() + b"\0" + value)
    return answer if op == wire.ERROR else None


def is_served(store: StoreClient, honest: GuestStore, eventually: Wait) -> None:
    """Assert that an honest guest's report still reaches dom0 and its order the guest."""
    heard = Heard(store)
    heard.clear()
    honest.write(paths.UP_REPORT, REPORT)
    eventually(lambda: heard.has((paths.absolute(HONEST, paths.UP_REPORT), str(HONEST))))
    got = store.read(paths.absolute(HONEST, paths.UP_REPORT))
    assert messages.parse(got, "report").number("tx_pps") == 12.5
    order = messages.encode("order", 1, {"level": "2"})
    store.write(paths.absolute(HONEST, paths.DOWN_ORDER), order)
    assert honest.read(paths.DOWN_ORDER) == order


def test_thousands_of_children_disturb_nobody(
    store: StoreClient, mallory: Ring, honest: GuestStore, eventually: Wait
) -> None:
    put(mallory, paths.UP_REPORT, REPORT)
    for number in range(1100):
        put(mallory, f"data/xenwarden/report/{number // 90}/child-with-a-rather-long-name-{number}", b"")
    assert store.read(paths.absolute(MALLORY, paths.UP_REPORT)) == REPORT
    events = [event for event in store.events() if event[1] == str(MALLORY)]
    assert len(events) <= 64
    is_served(store, honest, eventually)


def test_a_full_directory_listed_by_mistake_costs_dom0_nothing(
    xenstored: Xenstored, store: StoreClient, mallory: Ring
) -> None:
    for number in range(990):
        put(mallory, f"data/{number:04}", b"")
    # C xenstored bounds a guest's node at 2,048 bytes with its children's names, oxenstored does not
    # and answers beyond what the protocol allows: it must not cost the connection.
    names = store.directory(f"/local/domain/{MALLORY}/data")
    assert len(names) > (300 if xenstored.kind == "xenstored" else 900)
    assert store.generation() == 1


def test_endless_rewrites_are_few_events_and_others_come_through(
    store: StoreClient, mallory: Ring, honest: GuestStore, eventually: Wait
) -> None:
    stop = threading.Event()

    def flood() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            put(mallory, paths.UP_REPORT, b"xw1 report seq=%d" % number)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(5):
            is_served(store, honest, eventually)
            assert len(store.events()) <= 2
        value = store.read(paths.absolute(MALLORY, paths.UP_REPORT))
        assert messages.parse(value, "report").seq > 0
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0",
        b"\xff\xfe\x00\x01",
        "xw1 report seq=1 over=größe".encode(),
        b"xw1 report seq=-1",
        b"xw1 report seq=+1",
        b"xw1 report seq= 1",
        b"xw1 report seq=1e9",
        b"xw1 report seq=" + b"9" * 400,
        b"xw1 report seq=1 seq=2",
        b"xw1 report seq=1 bad name=1",
        b"xw1 answer seq=1",
        b"xw99999 report seq=1",
        b"xw1 report seq=1 " + b"a=1 " * 400,
        b"A" * 2010,
    ],
)
def test_what_is_no_message_is_refused(store: StoreClient, mallory: Ring, value: bytes) -> None:
    assert put(mallory, paths.UP_REPORT, value) is None
    got = store.read(paths.absolute(MALLORY, paths.UP_REPORT))
    assert got == value
    with pytest.raises(messages.MessageError):
        messages.parse(got, "report")


@pytest.mark.parametrize(
    "number", ["nan", "inf", "-1", "+1", "1e400", "1" + "0" * 200, "0x10", "٣", "1_0", ""]
)
def test_what_is_no_number_is_absent(store: StoreClient, mallory: Ring, number: str) -> None:
    put(mallory, paths.UP_REPORT, f"xw1 report seq=1 level=1 tx_pps={number}".encode())
    got = store.read(paths.absolute(MALLORY, paths.UP_REPORT))
    if not number.isascii():
        with pytest.raises(messages.MessageError):
            messages.parse(got, "report")
        return
    assert messages.parse(got, "report").numbers() == {"level": 1.0}


def test_a_node_that_comes_and_goes_is_read_whole_or_not_at_all(store: StoreClient, mallory: Ring) -> None:
    stop = threading.Event()

    def flicker() -> None:
        while not stop.is_set():
            put(mallory, paths.UP_REPORT, b"a" * 1900)
            mallory.ask(wire.RM, paths.UP_DIR.encode() + b"\0")
            put(mallory, paths.UP_REPORT, b"b" * 1900)

    thread = threading.Thread(target=flicker)
    thread.start()
    try:
        seen = set()
        for _ in range(100):
            seen.update(store.read_many([paths.absolute(MALLORY, paths.UP_REPORT)] * 20))
    finally:
        stop.set()
        thread.join()
    assert seen <= {None, b"a" * 1900, b"b" * 1900}


def test_permissions_hide_nothing_from_dom0_and_give_nothing_away(
    store: StoreClient, mallory: Ring, honest: GuestStore
) -> None:
    put(mallory, paths.UP_REPORT, REPORT)
    report = paths.UP_REPORT.encode() + b"\0"
    assert mallory.ask(wire.SET_PERMS, report + b"n5\0") == (wire.SET_PERMS, b"OK\0")
    assert store.read(paths.absolute(MALLORY, paths.UP_REPORT)) == REPORT
    for owner in (b"n0\0", b"n6\0"):
        assert mallory.ask(wire.SET_PERMS, report + owner)[0] == wire.ERROR
    assert store.permissions(paths.absolute(MALLORY, paths.UP_REPORT)) == ["n5"]
    # It may open its own node to another guest, who gains nothing that dom0 would read as its own.
    mallory.ask(wire.SET_PERMS, report + b"n5\0b6\0")
    honest.write(paths.absolute(MALLORY, paths.UP_REPORT), b"from 6")
    assert store.read_many([paths.absolute(HONEST, paths.UP_REPORT)]) == [None]


def test_another_guests_nodes_and_orders_are_out_of_reach(
    store: StoreClient, mallory: Ring, honest: GuestStore
) -> None:
    honest.write(paths.UP_REPORT, REPORT)
    store.write(paths.absolute(MALLORY, paths.DOWN_ORDER), b"order")
    for path in (
        paths.absolute(HONEST, paths.UP_REPORT),
        paths.absolute(HONEST, paths.DOWN_ORDER),
        paths.absolute(MALLORY, paths.DOWN_ORDER),
        "/local/domain/6/../5/data/x",
        "/tool/xenwarden/policy",
    ):
        node = path.encode() + b"\0"
        assert mallory.ask(wire.WRITE, node + b"x")[0] == wire.ERROR
        assert mallory.ask(wire.RM, node)[0] == wire.ERROR
        assert mallory.ask(wire.SET_PERMS, node + b"n5\0")[0] == wire.ERROR
    assert store.read(paths.absolute(HONEST, paths.UP_REPORT)) == REPORT
    assert store.read(paths.absolute(MALLORY, paths.DOWN_ORDER)) == b"order"


def test_a_guest_at_its_quota_harms_itself_only(
    store: StoreClient, mallory: Ring, honest: GuestStore, eventually: Wait
) -> None:
    refused = None
    for number in range(1100):
        refused = put(mallory, f"data/{number // 50}/{number}", b"") or refused
    assert refused in (b"ENOSPC\0", b"EQUOTA\0")
    assert put(mallory, paths.UP_REPORT, REPORT) is not None
    assert store.usage(MALLORY)["nodes"] >= 999
    assert store.usage(HONEST)["nodes"] < 10
    is_served(store, honest, eventually)


def test_a_held_transaction_is_seen_and_no_report_is_lost(
    xenstored: Xenstored, store: StoreClient, mallory: Ring, honest: GuestStore, eventually: Wait
) -> None:
    for _ in range(30):
        mallory.ask(wire.TRANSACTION_START, b"\0")
    is_served(store, honest, eventually)
    assert store.write_many([(f"/tool/{number}", b"") for number in range(500)]) == [None] * 500
    if xenstored.kind == "xenstored":
        assert store.usage(MALLORY)["transactions"] >= 10
        assert store.usage(HONEST)["transactions"] == 0


def test_a_flood_of_watch_events_that_it_never_takes_blocks_only_itself(
    store: StoreClient, mallory: Ring, honest: GuestStore, eventually: Wait
) -> None:
    for number in range(90):
        mallory.ask(wire.WATCH, b"data\0%d\0" % number)
    with pytest.raises(TimeoutError):
        fill_unread(mallory)
    is_served(store, honest, eventually)


def fill_unread(ring: Ring) -> None:
    """Send writes whose answers and events are never taken, until nothing more goes in."""
    request = wire.HEADER.pack(wire.WRITE, 1, 0, 7) + b"data/x\0"
    for _ in range(3000):
        left = request
        for _attempt in range(20):
            left = left[ring.push(left) :]
            if not left:
                break
            threading.Event().wait(0.01)
        else:
            raise TimeoutError


def test_reset_watches_ends_its_own_only(
    store: StoreClient, mallory: Ring, honest: GuestStore, eventually: Wait
) -> None:
    honest.watch(paths.DOWN_DIR, "down")
    assert mallory.ask(xenstored_offline.RESET_WATCHES, b"\0")[0] == xenstored_offline.RESET_WATCHES
    is_served(store, honest, eventually)
    heard = Heard(honest)
    eventually(lambda: heard.has((paths.DOWN_ORDER, "down")))


def test_garbage_on_its_ring_ends_its_own_connection_only(
    xenstored: Xenstored, store: StoreClient, mallory: Ring, honest: GuestStore, eventually: Wait
) -> None:
    mallory.push(wire.HEADER.pack(wire.WRITE, 1, 0, 0xFFFF_FFFF) + b"x" * 500)
    xenstored.create(7)
    broken = xenstored.ring(7)
    broken._index[xenstored_offline.REQ_PROD] = 0xDEAD_BEEF
    broken.notify()
    is_served(store, honest, eventually)


def test_domains_that_come_and_go_leave_nothing_behind(xenstored: Xenstored, store: StoreClient) -> None:
    for domid in range(100, 160):
        xenstored.create(domid)
        path = paths.absolute(domid, paths.UP_REPORT)
        store.watch(path, str(domid))
        xenstored.ring(domid).ask(wire.WRITE, paths.UP_REPORT.encode() + b"\0" + REPORT)
        assert store.read(path) == REPORT
        xenstored.destroy(domid)
        store.unwatch(path, str(domid))
    assert all(int(token) < 100 for _path, token in store.events())
    assert sorted(store.directory("/local/domain")) == ["5", "6"]
    assert sorted(store._events.watches()) == sorted(
        (paths.absolute(domid, paths.UP_REPORT), str(domid)) for domid in (MALLORY, HONEST)
    )


def test_a_guest_that_is_refused_learns_the_kind(honest: GuestStore) -> None:
    with pytest.raises(errors.PermissionDeniedError):
        honest.write("/local/domain/0/x", b"")
