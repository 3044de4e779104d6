# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the real xenstored and oxenstored without Xen, with guests that have a real domain identity.

    with Xenstored("xenstored") as daemon:
        daemon.create(5)
        dom0 = StoreClient(daemon.socket)
        guest = daemon.guest(5)      # a GuestStore, by way of a stand-in for /dev/xen/xenbus
        ring = daemon.ring(5)        # or the bare ring, for what no client would do

`shim.c` is preloaded into the daemon and stands in for Xen; its head says how.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from xenwarden_channel import wire
from xenwarden_channel.guest import GuestStore

HERE = Path(__file__).parent
BINARIES = {
    "xenstored": "/usr/lib/xen-4.17/bin/xenstored",
    "oxenstored": "/usr/lib/xen-4.17/bin/oxenstored",
}
INTRODUCE, RELEASE, RESET_WATCHES = 8, 9, 21
VIRQ_PORT, FIRST_PORT = 1, 64  # as in shim.c
PAGE_SIZE = 4096
RING_SIZE = 1024
# Indexes in the page, in 32-bit words after both rings (struct xenstore_domain_interface)
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD = 0, 1, 2, 3
PATIENCE_S = 10.0

OXENSTORED_CONFIG = """\
pid-file = {directory}/pid
xenstored-log-file = {directory}/log
access-log-file = {directory}/access-log
xenstored-kva = {directory}/page-0
xenstored-port = {directory}/xsd_port
# the rest as Debian's /etc/xen/oxenstored.conf has it
merge-activate = true
perms-activate = true
perms-watch-activate = true
quota-activate = true
quota-maxentity = 1000
quota-maxsize = 2048
quota-maxwatch = 100
quota-transaction = 10
quota-maxrequests = 1024
quota-path-max = 1024
quota-maxoutstanding = 1024
quota-maxwatchevents = 1024
persistent = false
"""


def missing() -> str:
    """Return what keeps the daemons from running here, empty where nothing does."""
    for path in (*BINARIES.values(), "/usr/include/xenctrl.h"):
        if not Path(path).exists():
            return f"{path} is missing (packages xen-utils-4.17 and libxen-dev)"
    return "" if shutil.which("gcc") else "gcc is missing"


def build_shim(directory: Path) -> Path:
    """Compile the shim and return the shared object."""
    shim = directory / "shim.so"
    source = HERE / "shim.c"
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", shim, source, "-ldl"],
        check=True,
    )
    return shim


class Xenstored:
    """One daemon, its directory and its domains."""

    def __init__(self, kind: str, shim: Path) -> None:
        self.kind = kind
        self._shim = shim
        self.directory = Path(tempfile.mkdtemp(prefix="offline-xen-"))
        self.socket = str(self.directory / "socket")
        self._process: subprocess.Popen[bytes] | None = None
        self._devices: dict[int, XenbusDevice] = {}
        self._rings: list[Ring] = []
        (self.directory / "xsd_port").write_text("1")
        self._new_page(0)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the daemon -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon with an empty store and wait until it answers."""
        arguments = [BINARIES[self.kind], "-N"]
        if self.kind == "oxenstored":
            config = self.directory / "oxenstored.conf"
            config.write_text(OXENSTORED_CONFIG.format(directory=self.directory))
            arguments = [BINARIES[self.kind], "--no-fork", "--config-file", str(config)]
        environment = {
            "LD_PRELOAD": str(self._shim),
            "OFFLINE_XEN": str(self.directory),
            "XENSTORED_RUNDIR": str(self.directory),
            "XENSTORED_PATH": self.socket,
        }
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(arguments, env=environment, stdout=output, stderr=output)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.ask(wire.READ, b"/\0")
                return
            time.sleep(0.01)
        raise RuntimeError(f"{self.kind} did not start: {(self.directory / 'output').read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        """Return the daemon's process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill the daemon as a crash does: its store is lost."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(FileNotFoundError):
            Path(self.socket).unlink()

    def stop(self) -> None:
        """Let the daemon hang: it neither reads nor answers, and its sockets stay."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End `stop`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill the daemon and remove all that was made."""
        for device in self._devices.values():
            device.close()
        for ring in self._rings:
            ring.close()
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def ask(self, op: int, payload: bytes) -> bytes:
        """Make one request as dom0, over a connection of its own, and return the answer's payload."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(self.socket)
            sock.sendall(wire.pack(op, 1, 0, payload))
            reader = wire.PacketReader(1 << 20)
            while data := sock.recv(65536):
                for got_op, _rq_id, got in reader.feed(data):
                    if got_op == wire.ERROR:
                        raise OSError(f"{op} {payload!r}: {got!r}")
                    return got
        raise OSError("connection closed")

    # --- domains ----------------------------------------------------------------------------------

    def create(self, domid: int) -> None:
        """Make a domain and its home as libxl does: `~` for it to read, `~/data` its own."""
        self._new_page(domid)
        home = b"/local/domain/%d" % domid
        self.ask(wire.WRITE, home + b"\0")
        self.ask(wire.SET_PERMS, home + b"\0n0\0r%d\0" % domid)
        self.ask(wire.WRITE, home + b"/data\0")
        self.ask(wire.SET_PERMS, home + b"/data\0n%d\0" % domid)
        self.introduce(domid)

    def introduce(self, domid: int) -> None:
        """Tell the daemon of the domain's ring."""
        self.ask(INTRODUCE, b"%d\0%d\0%d\0" % (domid, 1, 5))

    def destroy(self, domid: int) -> None:
        """End a domain as Xen does: it is gone, and the daemon hears of it. Its home is removed."""
        device = self._devices.pop(domid, None)
        if device is not None:
            device.close()
        (self.directory / f"page-{domid}").unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(struct.pack("=I", VIRQ_PORT), str(self.directory / "evtchn"))
        self.ask(wire.RM, b"/local/domain/%d\0" % domid)

    def ring(self, domid: int) -> Ring:
        """Return the domain's end of its ring. One user at a time."""
        ring = Ring(self.directory, domid)
        self._rings.append(ring)
        return ring

    def guest(self, domid: int, deadline_s: float = 5.0) -> GuestStore:
        """Return a guest's client; a domain may have one at a time."""
        if domid not in self._devices:
            self._devices[domid] = XenbusDevice(self.ring(domid), self.directory / f"xenbus-{domid}")
        return GuestStore(self._devices[domid].path, deadline_s)

    def _new_page(self, domid: int) -> None:
        (self.directory / f"page-{domid}").write_bytes(bytes(PAGE_SIZE))


class Ring:
    """A domain's end of its ring page and event channel."""

    def __init__(self, directory: Path, domid: int) -> None:
        self.domid = domid
        with (directory / f"page-{domid}").open("r+b") as page:
            self._page = mmap.mmap(page.fileno(), PAGE_SIZE)
        self._index = memoryview(self._page)[2 * RING_SIZE : 2 * RING_SIZE + 16].cast("I")
        self._daemon = str(directory / "evtchn")
        path = directory / f"event-{domid}"
        path.unlink(missing_ok=True)
        self.events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.events.bind(str(path))
        self._reader = wire.PacketReader()
        self._rq_id = 0

    def close(self) -> None:
        """Unmap."""
        self.events.close()
        self._index.release()
        self._page.close()

    def notify(self) -> None:
        """Raise the event channel."""
        with contextlib.suppress(OSError):  # no daemon just now
            self.events.sendto(struct.pack("=I", FIRST_PORT + self.domid), self._daemon)

    def push(self, data: bytes) -> int:
        """Put as much of `data` as fits into the request ring, raise the event and return how much."""
        producer = self._index[REQ_PROD]
        free = RING_SIZE - (producer - self._index[REQ_CONS]) % 2**32
        done = min(free, len(data))
        for position in range(done):  # byte by byte: wraps, and is quick enough for tests
            self._page[(producer + position) % RING_SIZE] = data[position]
        self._index[REQ_PROD] = (producer + done) % 2**32
        if done:
            self.notify()
        return done

    def pull(self) -> bytes:
        """Take all that is in the reply ring."""
        consumer = self._index[RSP_CONS]
        count = (self._index[RSP_PROD] - consumer) % 2**32
        start = RING_SIZE + consumer % RING_SIZE
        data = self._page[start : min(start + count, 2 * RING_SIZE)]
        data += self._page[RING_SIZE : RING_SIZE + count - len(data)]
        self._index[RSP_CONS] = (consumer + count) % 2**32
        if count:
            self.notify()
        return data

    def clear_events(self) -> None:
        """Take in what the event channel has raised."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.events.recv(4)

    def send(self, op: int, payload: bytes, tx_id: int = 0) -> int:
        """Send a request, answers unread, and return its id."""
        self._rq_id += 1
        data = wire.HEADER.pack(op, self._rq_id, tx_id, len(payload)) + payload
        until = time.monotonic() + PATIENCE_S
        while data:
            data = data[self.push(data) :]
            if data:
                self._wait(until)
        return self._rq_id

    def ask(self, op: int, payload: bytes, tx_id: int = 0) -> tuple[int, bytes]:
        """Make one request and return (operation, payload) of its answer; events are dropped."""
        rq_id = self.send(op, payload, tx_id)
        until = time.monotonic() + PATIENCE_S
        while True:
            for got_op, got_id, got in self._reader.feed(self.pull()):
                if got_op != wire.WATCH_EVENT and got_id == rq_id:
                    return got_op, got
            self._wait(until)

    def _wait(self, until: float) -> None:
        """Wait a little for the daemon; its event may have come before."""
        if time.monotonic() > until:
            raise TimeoutError(f"domain {self.domid}: the daemon does not answer")
        with selectors.DefaultSelector() as selector:
            selector.register(self.events, selectors.EVENT_READ)
            selector.select(0.02)
        self.clear_events()


class XenbusDevice:
    """Stands in for a guest kernel's `/dev/xen/xenbus`: a Unix socket before the guest's ring.

    Like the kernel it ends the watches of a client that goes away.
    """

    def __init__(self, ring: Ring, path: Path) -> None:
        self.path = str(path)
        self._ring = ring
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._closing, self._close = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the device; a client sees its connection end."""
        if self._thread.is_alive():
            os.write(self._close, b"x")
            self._thread.join()
        self._listener.close()
        Path(self.path).unlink(missing_ok=True)
        for fd in (self._closing, self._close):
            with contextlib.suppress(OSError):
                os.close(fd)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._closing, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._closing in ready:
                    return
                client, _ = self._listener.accept()
                with client:
                    if not self._serve(client):
                        return

    def _serve(self, client: socket.socket) -> bool:
        """Copy both ways until the client goes; False where the device is to be closed."""
        requests = b""
        seen = wire.PacketReader()
        watches: set[bytes] = set()
        with selectors.DefaultSelector() as selector:
            for file in (client, self._closing, self._ring.events):
                selector.register(file, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(0.02 if requests else 0.5)}
                if self._closing in ready:
                    return False
                self._ring.clear_events()
                if client in ready:
                    data = self._receive(client)
                    if not data:
                        break
                    requests += data
                    watches.update(payload for op, _, payload in seen.feed(data) if op == wire.WATCH)
                requests = requests[self._ring.push(requests) :]
                replies = self._ring.pull()
                if replies:
                    with contextlib.suppress(OSError):
                        client.sendall(replies)
        with contextlib.suppress(TimeoutError):
            for payload in watches:
                self._ring.ask(wire.UNWATCH, payload)
        return True

    @staticmethod
    def _receive(client: socket.socket) -> bytes:
        try:
            return client.recv(65536)
        except OSError:
            return b""
