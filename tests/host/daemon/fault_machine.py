# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine that kills the daemon: at the n-th call to Xen, vifs or journal, before or after it takes effect.

The points are counted, not listed: a call that is added to the daemon is a point by itself. `tell` lives
through a story of an operator and an admin; whoever gives an order whose daemon died repeats it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from xenwarden_host.control.client import ControlClient, UnreachableError
from xenwarden_host.errors import XenwardenError
from xenwarden_host.libxl.fake import FakeHypervisor
from xenwarden_host.limits.fake import FakeVifs

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

VM = "6f2f7a0c-0000-4000-8000-000000000001"
ORIGINAL_CAP, ADMINS_CAP = 90, 70
HERE = Path(__file__).parent
_WAIT_S = 60.0

Step = dict[str, Any] | str
ORDER: Step = {"do": "limit", "orders": {"cap": 25, "vif-rate": 10**7, "vif-pps/syn": 100}}
MORE: Step = {"do": "limit", "orders": {"cap": 30, "weight": 64, "pause": 1}}
LESS: Step = {"do": "limit", "orders": {"vif-pps/syn": 0}}
RELEASE: Step = {"do": "release"}
STORIES: dict[str, list[Step]] = {
    "limited": [ORDER],
    "limited and released": [ORDER, RELEASE],
    "changed by an admin, limited more and less": [ORDER, "admin", MORE, LESS],
    "paused and released": [MORE, RELEASE],
    "migrated, released": [ORDER, "migrate", RELEASE],
}


@dataclass
class Fault:
    """Where the daemon dies, and the points that it came by."""

    at: int
    after: bool
    points: list[str] = field(default_factory=list)
    died: bool = False


class Journal:
    """Where the journal's points arrive: nothing happens there."""

    def __getattr__(self, _name: str) -> Callable[[], None]:
        return lambda: None


class Machine:
    """Xen and vifs in memory, the processes of daemons, and the fault."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listener = Listener(str(folder / "machine"), "AF_UNIX")
        self._zygote = subprocess.Popen(
            [sys.executable, str(HERE / "fault_daemon.py"), str(folder / "machine")],
            stdin=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._number = 0
        self._pids: set[int] = set()
        threading.Thread(target=self._accept, daemon=True).start()
        self.begin(-1, after=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self._zygote.stdin is not None
        self._zygote.stdin.close()
        self._zygote.wait()
        self._listener.close()

    def begin(self, at: int, *, after: bool) -> None:
        """Be a new machine, whose daemon will die at point `at`."""
        self.kill()
        self._number += 1
        self.state = self._folder / str(self._number)
        self.state.mkdir()
        (self.state / "policy").write_text("tick_s: 600\n")  # ticks come with a start, and no other
        self.xen, self.vifs = FakeHypervisor(), FakeVifs()
        self.domid = self.xen.add(VM, "vm", cap=ORIGINAL_CAP)
        self.vifs.add(self.domid)
        self.fault = Fault(at, after)
        self.natives = {"cap": str(ORIGINAL_CAP), "weight": "256", "pause": "running", "vif-rate": None}

    def start(self) -> ControlClient | None:
        """Start a daemon and connect to it; None where it died before it listened."""
        places = ("--config", self.state / "policy", "--state-dir", self.state, "--run-dir", self.state)
        assert self._zygote.stdin is not None
        died_before = self.fault.died
        self._zygote.stdin.write(json.dumps(list(map(str, places))) + "\n")
        self._zygote.stdin.flush()
        until = time.monotonic() + _WAIT_S
        while self.fault.died == died_before:
            with contextlib.suppress(UnreachableError):
                client = ControlClient(str(self.state / "control.sock"))
                client.ask("version")
                return client
            assert time.monotonic() < until, (self._folder / "log").read_text()
            time.sleep(0.002)
        return None

    def change(self, step: str) -> None:
        """Do what an admin or Xen does: once, whoever dies."""
        if step == "admin":
            self.xen.set_sched_params(self.domid, cap=ADMINS_CAP)
            self.vifs.set_rate(self.domid, 0, "999999,50000")
            self.natives |= {"cap": str(ADMINS_CAP), "vif-rate": "0=999999,50000"}
        else:
            old, self.domid = self.domid, self.xen.renumber(self.domid)
            self.vifs.renumber(old, self.domid)

    def order(self, client: ControlClient, step: dict[str, Any]) -> bool:
        """Give an operator's order; tell whether the daemon lived through it."""
        try:
            client.ask(vm=VM, **step)
        except UnreachableError:
            until = time.monotonic() + _WAIT_S
            while not self.fault.died:
                assert time.monotonic() < until, "the daemon died by itself"
                time.sleep(0.001)
            return False
        return True

    def stands(self) -> dict[str, str | None]:
        """Return what stands on the machine, in the words of `limits`."""
        params, vif = self.xen.sched_params(self.domid), self.vifs.vifs[self.domid][0]
        return {
            "cap": str(params.cap),
            "weight": str(params.weight),
            "pause": {0: "running", 1: "paused"}.get(self.xen.pauses[self.domid], "paused twice"),
            "vif-rate": vif.rate and f"0={vif.rate}",
            **{f"vif-pps/{name}": f"0={value}" for name, value in vif.police.items()},
        }

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        fault, parts = self.fault, {"xen": self.xen, "vifs": self.vifs, "journal": Journal()}
        pid = connection.recv()
        self._pids.add(pid)
        with contextlib.suppress(EOFError, OSError):
            while True:
                part, name, args, kwargs = connection.recv()
                fault.points.append(f"{part}.{name}")
                now = len(fault.points) - 1 == fault.at
                answer, error = None, None
                if not now or fault.after:
                    try:
                        answer = getattr(parts[part], name)(*args, **kwargs)
                    except XenwardenError as problem:
                        error = type(problem), problem.__dict__, problem.args
                if now:
                    self._kill(pid)
                    fault.died = True
                    return
                connection.send((answer, error))

    def kill(self) -> None:
        """Kill what daemons there are."""
        for pid in list(self._pids):
            self._kill(pid)

    def _kill(self, pid: int) -> None:
        """Kill the daemon and wait until it is gone, with the lock that it held."""
        self._pids.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            while True:
                os.kill(pid, 0)
                time.sleep(0.001)


def tell(machine: Machine, story: list[Step]) -> Any:
    """Live through a story and return how it ends; after each death the daemon is started again."""
    client = machine.start() or _again(machine)
    for step in story:
        if isinstance(step, str):
            machine.change(step)
            machine.kill()  # it lists domains anew when it starts
            client = machine.start() or _again(machine)
        elif not machine.order(client, step):
            client = _again(machine)
            assert machine.order(client, step)
    limits = _limits(machine, client)
    return machine.stands(), {kind: (row["value"], row["original"]) for kind, row in limits.items()}


def _again(machine: Machine) -> ControlClient:
    """Start the daemon that died. Nobody repeats an order yet."""
    client = machine.start()
    assert client is not None
    _limits(machine, client)
    return client


def _limits(machine: Machine, client: ControlClient) -> dict[str, Any]:
    """Return the limits; each place must have what is decided, or what was there."""
    limits = {row["kind"]: row for row in client.ask("limits", vm=VM)}
    assert all(row["state"] == "set" for row in limits.values()), limits
    expected = machine.natives | {kind: row["set"] for kind, row in limits.items()}
    assert machine.stands() == expected
    return limits


def enumerate_points(machine: Machine, name: str, *, every: int = 1) -> tuple[int, int]:
    """Let the daemon die at each `every`-th point of a story, before and after it.

    Where points are left out: before and after in turn.

    Returns:
        How many points the story has, and how often the daemon died.
    """
    story, deaths = STORIES[name], 0
    machine.begin(-1, after=False)
    expected = tell(machine, story)
    points = machine.fault.points
    for at in range(0, len(points), every):
        for after in (False, True) if every == 1 else (bool(at // every % 2),):
            machine.begin(at, after=after)
            ended = tell(machine, story)
            where = f"died {'after' if after else 'before'} point {at}, {points[at]}"
            assert ended == expected, where
            assert machine.fault.died, where
            deaths += 1
    return len(points), deaths


def main() -> None:
    """Enumerate all points of all stories and print their count."""
    total = 0
    with (
        tempfile.TemporaryDirectory(prefix="xenwarden-faults-", dir="/dev/shm") as folder,
        Machine(Path(folder)) as machine,
    ):
        for name in STORIES:
            points, deaths = enumerate_points(machine, name)
            print(f"{name}: {points} points, {deaths} deaths of xenwardend, 0 wrong ends", flush=True)
            total += deaths
    print(f"all: {total} deaths, 0 wrong ends")


if __name__ == "__main__":
    main()
