# SPDX-License-Identifier: LGPL-2.1-or-later
"""XenStore channel: speed beside libxenstore and pyxs, and xenwardend's channel work for 1,000 guests.

All on the real C xenstored, run without Xen by the harness of `tests/xenstored`; peers take turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests" / "xenstored")]

import pyxs  # noqa: E402
import xenstored_offline  # noqa: E402

from benchmarks.figures import Figure, figure  # noqa: E402
from xenwarden_channel import paths  # noqa: E402
from xenwarden_channel.client import StoreClient  # noqa: E402
from xenwarden_host.daemon.clock import SystemClock  # noqa: E402
from xenwarden_host.daemon.service import _EVENTS_EVERY_S  # noqa: E402
from xenwarden_host.daemon.tracker import Tracker  # noqa: E402
from xenwarden_host.libxl.fake import FakeHypervisor  # noqa: E402

NODES = 1000
VALUE_SIZES = (16, 800)  # a state or a rate; an agent's report
TURNS = 7
GUESTS = 1000
INTERVAL_MS = 5000
WATCH_S = 20  # how long the 1,000 guests are listened to
CHURN = 10_000


def run() -> list[Figure]:
    """Measure all figures; about two minutes."""
    missing = xenstored_offline.missing()
    if missing:
        raise SystemExit(f"ci/bench channel: {missing}")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        shim = xenstored_offline.build_shim(work)
        peer = _build("channel_peer", work, "-lxenstore")
        guests = _build("channel_guests", work, "-lpthread")
        figures = _speed(shim, peer)
        figures += _thousand_guests(shim, guests)
        figures += _churn(shim)
    return figures


def _build(name: str, work: Path, library: str) -> Path:
    program = work / name
    subprocess.run(["gcc", "-O2", "-o", program, HERE / f"{name}.c", library], check=True)
    return program


# --- beside libxenstore and pyxs --------------------------------------------------------------------


def _speed(shim: Path, peer: Path) -> list[Figure]:
    found: dict[str, list[float]] = {}
    with xenstored_offline.Xenstored("xenstored", shim) as daemon:
        environment = {"XENSTORED_PATH": daemon.socket}

        def libxenstore(*arguments: str) -> float:
            return float(subprocess.check_output([peer, *arguments], env=environment))

        store = StoreClient(daemon.socket)
        nodes = [f"/bench/{number}" for number in range(NODES)]
        client = pyxs.Client(unix_socket_path=daemon.socket)
        client.connect()
        for turn in range(2 * TURNS):
            size = VALUE_SIZES[turn % 2]
            store.write_many([(node, b"x" * size) for node in nodes])
            found.setdefault(f"{size} ours", []).append(_reads_per_s(store, nodes))
            found.setdefault(f"{size} libxenstore", []).append(libxenstore("read", str(NODES), "10"))
            found.setdefault(f"{size} ceiling", []).append(libxenstore("pipe", str(NODES), "10"))
            found.setdefault(f"{size} pyxs", []).append(_pyxs_reads_per_s(client, nodes))
            found.setdefault("event ours", []).append(_event_us(store, 500))
            found.setdefault("event libxenstore", []).append(libxenstore("event", "500"))
        client.close()
        store.close()
    middle = {name: statistics.median(values) for name, values in found.items()}
    figures = []
    for size in VALUE_SIZES:
        name, ours = f"channel.read_many.{size}_bytes", middle[f"{size} ours"]
        figures += [
            figure(f"{name}.libxenstore", ours, "1/s", peer="C libxenstore, one at a time",
                   peer_value=middle[f"{size} libxenstore"], at_least=4),
            figure(f"{name}.pyxs", ours, "1/s", peer="pyxs Client",
                   peer_value=middle[f"{size} pyxs"], at_least=10),
            # What one connection can have of this daemon at all, whatever the client is written in.
            figure(f"{name}.ceiling", ours, "1/s", peer="C, pipelined, answers not looked at",
                   peer_value=middle[f"{size} ceiling"], at_least=0.8),
        ]  # fmt: skip
    figures.append(
        figure("channel.write_to_event", middle["event ours"], "us", peer="C libxenstore",
               peer_value=middle["event libxenstore"], at_most=1.5)
    )  # fmt: skip
    return figures


def _reads_per_s(store: StoreClient, nodes: list[str]) -> float:
    began = time.perf_counter()
    for _ in range(10):
        store.read_many(nodes)
    return 10 * len(nodes) / (time.perf_counter() - began)


def _pyxs_reads_per_s(client: pyxs.Client, nodes: list[str]) -> float:
    raw = [node.encode() for node in nodes]
    began = time.perf_counter()
    for node in raw:
        client.read(node)
    return len(raw) / (time.perf_counter() - began)


def _event_us(store: StoreClient, rounds: int) -> float:
    store.watch("/bench/event", "token")
    poller = select.poll()
    poller.register(store.event_fd(), select.POLLIN)
    poller.poll(5000)
    store.events()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        store.write("/bench/event", b"1")
        poller.poll(5000)
        store.events()
        took.append(time.perf_counter() - began)
    store.unwatch("/bench/event", "token")
    return statistics.median(took) * 1e6


# --- a thousand guests ------------------------------------------------------------------------------


def _thousand_guests(shim: Path, guests: Path) -> list[Figure]:
    with xenstored_offline.Xenstored("xenstored", shim) as daemon:
        for domid in range(1, GUESTS + 2):
            daemon.create(domid)
        quiet = _listen(daemon, guests, flooder=0)
        flooded = _listen(daemon, guests, flooder=GUESTS + 1)
    return [
        figure("channel.1000_guests.cpu", quiet["cpu_pct"], "%", peer="limit", peer_value=3, at_most=1),
        figure("channel.1000_guests.rss", quiet["rss_mb"], "MB", peer="limit", peer_value=60, at_most=1),
        figure("channel.1000_guests.p99", quiet["p99_ms"], "ms", peer="the agents' interval",
               peer_value=INTERVAL_MS, at_most=0.1),
        figure("channel.1000_guests.heard", quiet["heard"], "reports", peer="written",
               peer_value=quiet["written"], at_least=0.99),
        figure("channel.flood.p99", flooded["p99_ms"], "ms", peer="without the flood",
               peer_value=quiet["p99_ms"], at_most=2),
    ]  # fmt: skip


def _listen(daemon: xenstored_offline.Xenstored, guests: Path, flooder: int) -> dict[str, float]:
    """Let the guests report for `WATCH_S` and have a process of its own listen as xenwardend does."""
    listener = subprocess.Popen(
        [sys.executable, __file__, daemon.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert listener.stdin is not None  # noqa: S101 - both are pipes
    assert listener.stdout is not None  # noqa: S101
    try:
        listener.stdout.readline()  # it watches all
        arguments = [str(daemon.directory), str(GUESTS), str(INTERVAL_MS), str(WATCH_S), str(flooder)]
        subprocess.run([guests, *arguments], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, float] = json.loads(listener.communicate("\n", timeout=30)[0])
    finally:
        listener.kill()
        listener.wait()
    found["written"] = WATCH_S * 1000 / INTERVAL_MS * GUESTS
    return found


def _listener(socket_path: str) -> None:
    """Drain, read, parse and hand over as xenwardend does, until a line comes on standard input."""
    hypervisor = FakeHypervisor()
    for number in range(GUESTS + 1):
        hypervisor.add(str(UUID(int=number + 1)))
    store = StoreClient(socket_path)
    tracker = Tracker(hypervisor, store, SystemClock(), passive=False)
    tracker.refresh()
    poller = select.poll()
    poller.register(store.event_fd(), select.POLLIN)
    while poller.poll(1000):  # every watch fires once when it is made
        tracker.drain()
        tracker.read()
    for guest in tracker.guests.values():
        guest.inbox.report_is_new = False  # what an earlier run left
    print("ready", flush=True)
    latencies: list[float] = []
    began, cpu_began = time.monotonic(), _cpu_s()
    poller.register(0, select.POLLIN)
    while True:
        ready = [fd for fd, _events in poller.poll()]
        tracker.drain()
        tracker.read()
        now = time.monotonic()
        for domid, guest in tracker.guests.items():
            if guest.inbox.report_is_new and guest.inbox.report is not None:
                guest.inbox.report_is_new = False
                if domid <= GUESTS:
                    latencies.append(now - guest.inbox.report.agent_up_s)
        if 0 in ready:
            break
        time.sleep(_EVENTS_EVERY_S)
    cpu_pct = 100 * (_cpu_s() - cpu_began) / (time.monotonic() - began)
    latencies.sort()
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "cpu_pct": cpu_pct,
                "rss_mb": rss_mb,
                "heard": len(latencies),
                "p50_ms": latencies[len(latencies) // 2] * 1000,
                "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
            }
        )
    )
    store.close()


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# --- domains that come and go -----------------------------------------------------------------------


def _churn(shim: Path) -> list[Figure]:
    """Create, hear and destroy domains by the thousand; compare what is held after with before."""
    with xenstored_offline.Xenstored("xenstored", shim) as daemon:
        hypervisor = FakeHypervisor()
        store = StoreClient(daemon.socket)
        store.write("/local/domain/0/name", b"Domain-0")  # as xen-init-dom0 does
        tracker = Tracker(hypervisor, store, SystemClock(), passive=False)
        tracker.refresh()
        report = b"xw1 report seq=1 boot=0a1b2c3d level=1 interval=5"
        held = [_held(daemon, store)]
        for number in range(1, CHURN + 1):
            domid = hypervisor.add(str(UUID(int=number)))
            daemon.create(domid)
            tracker.refresh()
            store.write(paths.absolute(domid, paths.UP_REPORT), report)
            tracker.drain()
            tracker.read()
            hypervisor.destroy(domid)
            hypervisor.calls.clear()  # the fake's own diary
            daemon.destroy(domid)
            tracker.refresh()
            if number in (CHURN // 2, CHURN):  # by the first, what is bounded is full
                tracker.drain()
                held.append(_held(daemon, store))
        store.close()
    _start, warm, end = held
    return [
        figure(f"channel.churn.{name}", end[name], unit, peer="after the first half",
               peer_value=warm[name], at_most=1.05 if name == "rss" else 1)
        for name, unit in (("rss", "MB"), ("fds", "count"), ("watches", "count"), ("nodes", "count"))
    ]  # fmt: skip


def _held(daemon: xenstored_offline.Xenstored, store: StoreClient) -> dict[str, float]:
    statm = Path("/proc/self/statm").read_text().split()
    listing = subprocess.check_output(
        ["xenstore-ls", "-f"], env={**os.environ, "XENSTORED_PATH": daemon.socket}
    )
    return {
        "rss": int(statm[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "fds": len(list(Path("/proc/self/fd").iterdir())),
        "watches": len(store._events.watches()),  # noqa: SLF001 - what it holds is the figure
        "nodes": listing.count(b"\n"),
    }


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _listener(sys.argv[1])
