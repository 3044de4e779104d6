# SPDX-License-Identifier: LGPL-2.1-or-later
"""The operator's side: what a command costs, and what a crowd at the control socket costs the VMs.

The shipped daemon as a process of its own, on the real C xenstored without Xen and a simulated
hypervisor. The crowd are a thousand clients of another user with the viewer's role: some say nothing,
some say half a request, some send garbage, some ask on and on and do not read the answers.
"""

from __future__ import annotations

import contextlib
import grp
import multiprocessing
import os
import random
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests"
sys.path[:0] = [str(TESTS / "xenstored")]

import xenstored_offline  # noqa: E402

from benchmarks.figures import Figure, figure  # noqa: E402
from xenwarden_channel import messages, paths  # noqa: E402
from xenwarden_host.control.client import ControlClient  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LISTS = 30
PAIRS = 40  # runs without and with the crowd, in turn
ORDERS = 25  # of an operator in each run
CLIENTS = 1000
NOBODY = 65534
RESAMPLES = 2000
PATIENCE_S = 20.0


def run() -> list[Figure]:
    """Measure; about three minutes."""
    missing = xenstored_offline.missing()
    if missing:
        raise SystemExit(f"ci/bench operator: {missing}")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        work.chmod(0o755)
        shim = xenstored_offline.build_shim(work)
        with xenstored_offline.Xenstored("xenstored", shim) as store:
            domids = range(1, 2 * PAIRS + 1)
            for domid in domids:
                store.create(domid)
            with _daemon(work, store.socket, domids) as control:
                return [_list_cost(control), *_crowd_cost(control, store)]


# --- the daemon ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _daemon(work: Path, store_socket: str, domids: range) -> Iterator[Path]:
    """Run xenwardend with these VMs, and yield its control socket."""
    policy = work / "policy.yaml"
    policy.write_text(f"roles: {{viewer: [{grp.getgrgid(NOBODY).gr_name}]}}\n")
    control = work / "run/control.sock"
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, TESTS / "host/daemon/daemon_process.py", store_socket,
                ",".join(map(str, domids)), "--config", policy, "--state-dir", work / "state",
                "--run-dir", control.parent,
            ],
            stderr=log,
        )  # fmt: skip
        try:
            _wait(lambda: control.exists() and len(_ask(control, "list")["vms"]) > len(domids))
            control.parent.chmod(0o755)
            yield control
        finally:
            process.terminate()
            process.wait()


def _wait(holds: Callable[[], bool], every_s: float = 0.1) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > until:
            raise SystemExit("ci/bench operator: xenwardend does not answer")
        time.sleep(every_s)


def _ask(control: Path, do: str, **arguments: Any) -> Any:
    client = ControlClient(str(control))
    try:
        return client.ask(do, **arguments)
    finally:
        client.close()


# --- what `xenwarden list` costs --------------------------------------------------------------------


def _list_cost(control: Path) -> Figure:
    """CPU of the command beside that of a Python that does nothing, in turn."""
    command = [Path(sys.executable).parent / "xenwarden", "--socket", control, "list"]
    bare = [sys.executable, "-I", "-c", "pass"]
    spent: dict[str, list[float]] = {"list": [], "bare": []}
    for _ in range(LISTS):
        spent["list"].append(_cpu_ms(command))
        spent["bare"].append(_cpu_ms(bare))
    return figure(
        "operator.list_cpu", statistics.median(spent["list"]), "ms", peer="python3 -I -c pass",
        peer_value=statistics.median(spent["bare"]), at_most=1.5,
    )  # fmt: skip


def _cpu_ms(command: list[Any]) -> float:
    # What is installed has its bytecode; here the first run makes it.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


# --- what a crowd costs ------------------------------------------------------------------------------


def _crowd_cost(control: Path, store: xenstored_offline.Xenstored) -> list[Figure]:
    """Delay from a report to the attacker's limit, and of an operator's order, without and with the crowd."""
    decisions: dict[bool, list[float]] = {False: [], True: []}
    orders: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * PAIRS):
        pair, crowded = divmod(number, 2)
        with _crowd(control) if crowded else contextlib.nullcontext():
            orders[bool(crowded)].append(_order_ms(control, number + 1))
            # Over all of the daemon's tick, and in both runs of a pair at the same place in it: after a
            # tick the next one waits, which makes most of the difference between delays.
            decisions[bool(crowded)].append(_decision_ms(control, store, number + 1, (pair + 0.5) / PAIRS))
    return [
        figure(
            f"operator.{name}_with_{CLIENTS}_clients_95_high", _bound(delays), "ms",
            peer="without them, mean", peer_value=statistics.mean(delays[False]), at_most=1.25,
        )
        for name, delays in (("decision", decisions), ("order", orders))
    ]  # fmt: skip


def _bound(delays: dict[bool, list[float]]) -> float:
    """Return the upper 95 % bound of the mean with the crowd, in the scale of that without it.

    By bootstrap over the pairs (Efron and Tibshirani 1993).
    """
    chance = random.Random(1)  # noqa: S311  samples, no secret
    pairs = list(zip(delays[False], delays[True], strict=True))
    ratios = sorted(_ratio(chance.choices(pairs, k=PAIRS)) for _ in range(RESAMPLES))
    return ratios[int(0.95 * RESAMPLES)] * statistics.mean(delays[False])


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return sum(crowded for _alone, crowded in pairs) / sum(alone for alone, _crowded in pairs)


def _order_ms(control: Path, domid: int) -> float:
    """Return what an order of root takes, from connecting to the answer; the median of some."""
    taken = []
    for number in range(ORDERS):
        began = time.perf_counter()
        _ask(control, "limit", vm=f"vm{domid}", orders={"cap": 50 + number % 2}, for_s=60)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def _decision_ms(control: Path, store: xenstored_offline.Xenstored, domid: int, after_s: float) -> float:
    """Return what passes from the report of a flood, `after_s` a tick, to the event that it is limited."""
    guest, client = store.guest(domid), ControlClient(str(control))
    try:
        client.ask("events", follow=True, lines=0)
        ticks = _ask(control, "list")["daemon"]["ticks"]
        _wait(lambda: _ask(control, "list")["daemon"]["ticks"] > ticks, every_s=0.005)
        time.sleep(after_s)
        fields: dict[str, str | float] = {"boot": "0000abcd", "level": "2", "interval": 1, "tx_syn_pps": 9000}
        began = time.perf_counter()
        guest.write(paths.UP_REPORT, messages.encode("report", 1, fields))
        for event in client.follow():
            if (event["event"], event["data"].get("kind")) == ("limit-set", "vif-pps/syn"):
                break
        return 1000 * (time.perf_counter() - began)
    finally:
        client.close()
        guest.close()


@contextlib.contextmanager
def _crowd(control: Path) -> Iterator[None]:
    process = multiprocessing.get_context("fork").Process(target=_be_crowd, args=(control,))
    process.start()
    try:
        time.sleep(1)
        yield
    finally:
        process.terminate()
        process.join()


def _be_crowd(control: Path) -> None:
    """Be a thousand clients. Each comes again a second after it was sent away."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * CLIENTS, 2 * CLIENTS))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    sayings = (b"", b'{"do": "li', b"\xff" * 5000 + b"\n", b'{"do": "list"}\n' * 50)
    poll, sockets = select.poll(), {}
    again = [(time.monotonic() + number / CLIENTS, number) for number in range(CLIENTS)]
    while True:
        while again and again[0][0] <= time.monotonic():
            due, number = again.pop(0)
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            try:
                client.connect(str(control))
                client.send(sayings[number % len(sayings)])
            except OSError:
                client.close()
                again.append((due + 1, number))
                continue
            sockets[client.fileno()] = (client, number)
            poll.register(client, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
        for fd, _events in poll.poll(20):
            client, number = sockets.pop(fd)
            poll.unregister(client)
            client.close()
            again.append((time.monotonic() + 1, number))
