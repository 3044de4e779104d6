# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon dies, hangs, restarts, is updated live, or answers nonsense: what clients do then."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import threading
import time
import tty
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xenstore_worlds import Heard

from xenwarden_channel import errors, wire
from xenwarden_channel.client import StoreClient
from xenwarden_channel.guest import GuestStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenstore_worlds import Wait
    from xenstored_offline import Xenstored

READY = wire.pack(wire.READ, 0, 0, b"")


@pytest.fixture
def client(xenstored: Xenstored) -> Iterator[StoreClient]:
    store = StoreClient(xenstored.socket)
    yield store
    store.close()


# --- the real daemons -------------------------------------------------------------------------------


@pytest.mark.xenstored
def test_a_killed_daemon_is_an_error_at_once_and_comes_back_with_all_watches(
    xenstored: Xenstored, client: StoreClient, eventually: Wait
) -> None:
    client.write("/tool/before", b"1")
    client.watch("/tool/w", "t")
    client.watch("@releaseDomain", "gone")
    heard = Heard(client)
    eventually(lambda: heard.has(("/tool/w", "t"), ("@releaseDomain", "gone")))
    generation = client.generation()

    xenstored.kill()
    eventually(lambda: not client.connected())
    began = time.monotonic()
    with pytest.raises(errors.DisconnectedError):
        client.read("/tool/before")
    with pytest.raises(errors.DisconnectedError):
        client.write_many([("/tool/x", b"")])
    assert time.monotonic() - began < 4, "no deadline is waited for"

    heard.clear()
    xenstored.start()
    eventually(client.connected)
    eventually(lambda: heard.has(("/tool/w", "t"), ("@releaseDomain", "gone")))
    assert client.generation() > generation
    with pytest.raises(errors.NotFoundError):
        client.read("/tool/before")  # the store is new and empty: the caller writes all anew
    heard.clear()
    client.write("/tool/w", b"2")
    eventually(lambda: heard.has(("/tool/w", "t")))


@pytest.mark.xenstored
def test_a_call_under_way_when_the_daemon_dies_ends_at_once(
    xenstored: Xenstored, client: StoreClient, eventually: Wait
) -> None:
    xenstored.stop()
    failures: list[errors.StoreError] = []

    def ask() -> None:
        try:
            client.read("/tool/x")
        except errors.StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(client._pending) == 4)
    xenstored.kill()
    for thread in threads:
        thread.join(4)
    assert [type(failure) for failure in failures] == [errors.DisconnectedError] * 4


@pytest.mark.xenstored
def test_a_hanging_daemon_costs_the_deadline_and_no_more(xenstored: Xenstored) -> None:
    xenstored.create(5)
    store = StoreClient(xenstored.socket, deadline_s=0.3)
    guest = xenstored.guest(5, deadline_s=0.3)
    store.write_many([("/tool/a", b"a"), ("/tool/b", b"b")])
    guest.write("data/g", b"g")
    xenstored.stop()
    began = time.monotonic()
    for call in (
        lambda: store.read("/tool/a"),
        lambda: store.read_many(["/tool/a"] * 50),
        lambda: guest.read("data/g"),
    ):
        with pytest.raises(errors.DeadlineError):
            call()
    assert time.monotonic() - began < 4
    xenstored.go_on()
    assert guest.read("data/g") == b"g", "the late answer is not taken for this one"
    assert store.read("/tool/b") == b"b"
    assert store.generation() == 1, "the connection is the same"
    store.close()


@pytest.mark.xenstored
def test_more_requests_than_a_hanging_daemon_takes_end_too(xenstored: Xenstored, eventually: Wait) -> None:
    store = StoreClient(xenstored.socket, deadline_s=0.3)
    xenstored.stop()
    with pytest.raises(errors.StoreError):
        store.write_many([("/tool/a", b"x" * 2000)] * 2000)
    xenstored.go_on()
    # Half a request may have gone out: then only a new connection helps, and there is one.
    eventually(store.connected)
    store.write("/tool/b", b"1")
    assert store.read("/tool/b") == b"1"
    store.close()


@pytest.mark.xenstored
def test_a_guest_survives_its_daemons_return(xenstored: Xenstored, eventually: Wait) -> None:
    xenstored.create(5)
    guest = xenstored.guest(5)
    guest.watch("data/x", "t")
    guest.close()
    with pytest.raises(errors.DisconnectedError):
        guest.write("data/x", b"1")
    guest.reconnect()
    heard = Heard(guest)
    eventually(lambda: heard.has(("data/x", "t")))
    guest.write("data/x", b"1")


@pytest.mark.xenstored
@pytest.mark.parametrize("xenstored", ["xenstored"], indirect=True)
def test_live_update_loses_nothing(xenstored: Xenstored, client: StoreClient, eventually: Wait) -> None:
    xenstored.create(5)
    guest = xenstored.guest(5)
    guest.write("data/a", b"1")
    guest.watch("data/b", "g")
    client.watch("/local/domain/5/data", "t")
    heard, guest_heard = Heard(client), Heard(guest)
    eventually(lambda: heard.has(("/local/domain/5/data", "t")) and guest_heard.has(("data/b", "g")))
    control = Path("/usr/lib/xen-4.17/bin/xenstore-control")
    binary = "/usr/lib/xen-4.17/bin/xenstored"
    subprocess.run(
        [control, "live-update", "-t", "5", binary],
        env={**os.environ, "XENSTORED_PATH": xenstored.socket},
        check=True,
        timeout=20,
        stdout=subprocess.DEVNULL,
    )
    assert b"\0-U\0" in Path(f"/proc/{xenstored.pid}/cmdline").read_bytes(), "it runs as updated"
    heard.clear()
    guest_heard.clear()
    guest.write("data/a", b"2")
    client.write("/local/domain/5/data/b", b"3")
    eventually(lambda: heard.has(("/local/domain/5/data/a", "t")))
    eventually(lambda: guest_heard.has(("data/b", "g")))
    assert client.read("/local/domain/5/data/a") == b"2"
    assert client.generation() == 1


@pytest.mark.xenstored
def test_guests_are_not_held_up_by_a_daemon_that_does_not_ask_for_events(
    xenstored: Xenstored, client: StoreClient
) -> None:
    xenstored.create(5)
    guest = xenstored.guest(5)
    client.watch("/local/domain/5/data", "t")
    for number in range(3000):
        guest.write(f"data/{number % 20}/{number % 200}", b"%d" % number)
    assert guest.read("data/19/199") == b"2999"
    assert 0 < len(client.events()) <= 64


@pytest.mark.xenstored
def test_a_suspended_guest_holds_nobody_up_and_goes_on_where_it_was(
    xenstored: Xenstored, client: StoreClient
) -> None:
    for domid in (5, 6):
        xenstored.create(domid)
    suspended = xenstored.ring(5)  # nobody takes what comes
    client.write("/local/domain/5/xenwarden", b"")
    client.set_permissions("/local/domain/5/xenwarden", ["n0", "r5"])
    assert suspended.ask(wire.WATCH, b"xenwarden\0down\0")[0] == wire.WATCH
    for number in range(500):
        client.write(f"/local/domain/5/xenwarden/n{number % 50}", b"%d" % number)
    other = xenstored.guest(6)
    other.write("data/x", b"served")
    assert client.read("/local/domain/6/data/x") == b"served"
    assert suspended.ask(wire.READ, b"xenwarden/n49\0") == (wire.READ, b"499")


@pytest.mark.xenstored
def test_many_threads_share_one_connection(client: StoreClient) -> None:
    wrong: list[str] = []

    def work(me: int) -> None:
        for number in range(100):
            mine = b"%d %d" % (me, number)
            client.write(f"/tool/{me}", mine)
            if client.read(f"/tool/{me}") != mine:
                wrong.append(f"{me} {number}")

    threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert client.read("/tool/7") == b"7 99"


@pytest.mark.xenstored
def test_a_closed_client_leaves_neither_threads_nor_descriptors(xenstored: Xenstored) -> None:
    def count() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(20):
        store = StoreClient(xenstored.socket)
        store.watch("/tool/x", "t")
        store.close()
        with pytest.raises(errors.DisconnectedError):
            store.read("/tool/x")
    assert count() == before


def test_no_daemon_at_all_is_told_within_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(errors.DisconnectedError):
        StoreClient(str(tmp_path / "none"), deadline_s=0.2)
    with pytest.raises(errors.DisconnectedError):
        GuestStore(str(tmp_path / "none"), deadline_s=0.2)


# --- a daemon that answers nonsense -------------------------------------------------------------------


class Liar:
    """Listens as a xenstored would and answers each connection by the next of its scripts."""

    def __init__(self, path: Path, scripts: list[Callable[[socket.socket], None]]) -> None:
        self.path = str(path)
        self._scripts = scripts
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for script in self._scripts:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                script(connection)
        self._listener.close()


def honest(connection: socket.socket) -> None:
    """Answer every READ with `fine` until the client goes."""
    reader = wire.PacketReader()
    while data := connection.recv(65536):
        for op, rq_id, _payload in reader.feed(data):
            connection.sendall(wire.pack(op, rq_id, 0, b"fine"))


def request_id(connection: socket.socket) -> int:
    """Wait for a request and return its id."""
    request = connection.recv(65536)
    if not request:
        raise ConnectionResetError
    return int(wire.HEADER.unpack(request[: wire.HEADER_SIZE])[1])


def truncated(connection: socket.socket) -> None:
    rq_id = request_id(connection)
    connection.sendall(wire.pack(wire.READ, rq_id, 0, b"fine")[:-2])


def half_a_header(connection: socket.socket) -> None:
    request_id(connection)
    connection.sendall(b"\2\0\0")


def endless_payload(connection: socket.socket) -> None:
    rq_id = request_id(connection)
    connection.sendall(wire.HEADER.pack(wire.READ, rq_id, 0, 0x7FFF_FFFF))
    connection.recv(1)


def another_operation(connection: socket.socket) -> None:
    rq_id = request_id(connection)
    connection.sendall(wire.pack(wire.WRITE, rq_id, 0, b"OK\0"))
    connection.recv(1)


def closed(connection: socket.socket) -> None:
    request_id(connection)


LIES = [truncated, half_a_header, endless_payload, another_operation, closed]


@pytest.mark.parametrize("lie", LIES)
def test_dom0_takes_no_nonsense_and_connects_anew(
    tmp_path: Path, eventually: Wait, lie: Callable[[socket.socket], None]
) -> None:
    store = StoreClient(Liar(tmp_path / "socket", [lie, honest]).path)
    with pytest.raises(errors.DisconnectedError):
        store.read("/x")
    eventually(lambda: store.connected() and store.generation() == 2)
    assert store.read("/x") == b"fine"
    store.close()


@pytest.mark.parametrize("lie", LIES)
def test_a_guest_takes_no_nonsense_and_can_connect_anew(
    tmp_path: Path, lie: Callable[[socket.socket], None]
) -> None:
    store = GuestStore(Liar(tmp_path / "socket", [lie, honest]).path)
    with pytest.raises(errors.DisconnectedError):
        store.read("/x")
    with pytest.raises(errors.DisconnectedError):
        store.read("/x")
    store.reconnect()
    assert store.read("/x") == b"fine"
    store.close()


def chatter(connection: socket.socket) -> None:
    """Answer byte by byte, between answers to requests never made and events nobody asked for."""
    while True:
        rq_id = request_id(connection)
        stream = (
            wire.pack(wire.READ, rq_id + 100, 0, b"not yours")
            + wire.pack(wire.WATCH_EVENT, rq_id, 0, b"/never\0asked\0")
            + wire.pack(wire.WATCH_EVENT, 0xABCD, 0, b"no strings")
            + wire.pack(wire.READ, rq_id, 0, b"fine")
        )
        for byte in stream:
            connection.sendall(bytes([byte]))


def test_answers_never_asked_for_change_nothing(tmp_path: Path) -> None:
    store = StoreClient(Liar(tmp_path / "dom0", [chatter]).path)
    assert store.read("/x") == b"fine"
    assert store.read("/x") == b"fine"
    assert store.events() == []
    store.close()
    guest = GuestStore(Liar(tmp_path / "guest", [chatter]).path)
    assert guest.read("/x") == b"fine"
    assert guest.read("/x") == b"fine"
    guest.close()


def test_an_error_without_a_name_is_still_an_error(tmp_path: Path) -> None:
    def nameless(connection: socket.socket) -> None:
        while True:
            connection.sendall(wire.pack(wire.ERROR, request_id(connection), 0, b"\xff\xff" * 40))

    store = StoreClient(Liar(tmp_path / "dom0", [nameless]).path)
    with pytest.raises(errors.StoreError) as caught:
        store.read("/x")
    assert caught.value.code == "EIO"
    store.close()


def test_a_guest_speaks_over_a_character_device(eventually: Wait) -> None:
    """A raw terminal stands in for `/dev/xen/xenbus`: a file to read and write, and no socket."""
    controller, device = pty.openpty()
    tty.setraw(device)

    def serve() -> None:
        reader = wire.PacketReader()
        with contextlib.suppress(OSError):
            while True:
                for op, rq_id, _payload in reader.feed(os.read(controller, 4096)):
                    answer = b"OK\0" if op != wire.READ else b"fine"
                    os.write(controller, wire.pack(op, rq_id, 0, answer))
                    if op == wire.WATCH:
                        os.write(controller, wire.pack(wire.WATCH_EVENT, 77, 0, b"data\0t\0"))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    guest = GuestStore(os.ttyname(device))
    assert guest.read("data/x") == b"fine"
    guest.write("data/x", b"\x00\x11\x13\xff" * 500)
    guest.watch("data", "t")
    heard = Heard(guest)
    eventually(lambda: heard.has(("data", "t")))
    guest.close()
    os.close(device)
    os.close(controller)
