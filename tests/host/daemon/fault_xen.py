# SPDX-License-Identifier: LGPL-2.1-or-later
"""xenwardend dies at named points on real Xen. Runs in dom0; a lab test brings it there.

    python3 fault_xen.py VM            play all points, print one line of JSON for each
    python3 fault_xen.py daemon POINT  be the daemon that dies there

The daemon that dies is the shipped one on this host's libxl, XenStore and kernel, and it dies by SIGKILL of
its own hand; the one that follows it is the `xenwardend` that is installed. After the death, what Xen,
XenStore and the kernel have is read by xl, xenstore-read and tc.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenwarden_host.control.client import ControlClient, UnreachableError
from xenwarden_host.daemon import main as daemon
from xenwarden_host.limits.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path("/run/faults")
ARMED = HERE / "armed"  # calls count as points from when this is there
ORDERS = {"cap": 25, "vif-rate": 10_000_000, "vif-pps/syn": 100}
LIMITED = {"cap": "25", "vif-rate": "50000,40000", "vif-pps/syn": "100"}
_WAIT_S = 60.0


@dataclass(frozen=True)
class Point:
    """Before or after the n-th call of a name, in an order or in the release that follows one."""

    what: str
    call: str
    nth: int
    after: bool
    release: bool = False


POINTS = (
    Point("nothing is journalled", "save", 1, after=False),
    Point("all is journalled, nothing is set", "save", 1, after=True),
    Point("the cap is about to be set", "set_sched_params", 1, after=False),
    Point("the cap is set", "set_sched_params", 1, after=True),
    Point("the filters are about to be set", "set_police", 1, after=False),
    Point("the filters are set", "set_police", 1, after=True),
    Point("the rate is set", "set_rate", 1, after=True),
    Point("what was read back is not journalled", "save", 2, after=False),
    Point("what was read back is journalled", "save", 2, after=True),
    Point("the release is not journalled", "save", 1, after=False, release=True),
    Point("the release is journalled, all is set", "save", 1, after=True, release=True),
    Point("the cap is put back", "set_sched_params", 1, after=True, release=True),
    Point("the filters are gone", "set_police", 1, after=True, release=True),
    Point("all is put back, the originals are still known", "save", 3, after=False, release=True),
)


def be_daemon(point: Point) -> None:
    """Serve, and die at the point."""
    calls = 0

    def pointed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            now = False
            if name == point.call and ARMED.exists():
                calls += 1
                now = calls == point.nth
            if now and not point.after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = method(*args, **kwargs)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call

    options = daemon.arguments().parse_args(places())
    daemon.log_to_stderr(verbose=False, debug=False)
    with daemon.machine() as (hypervisor, store, vifs, vbds):
        for owner, name in (
            (Journal, "save"),
            (type(hypervisor), "set_sched_params"),
            (type(vifs), "set_rate"),
            (type(vifs), "set_police"),
        ):
            setattr(owner, name, pointed(name, getattr(owner, name)))
        lock = daemon.take_instance(options)
        daemon.serve(options, hypervisor=hypervisor, store=store, vifs=vifs, vbds=vbds)
        os.close(lock)


def places() -> list[str]:
    return ["--config", f"{HERE}/policy", "--state-dir", f"{HERE}/state", "--run-dir", f"{HERE}/run"]


def start(*command: str) -> tuple[subprocess.Popen[bytes], ControlClient]:
    """Start a daemon and connect to it."""
    with (HERE / "log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log)
    until = time.monotonic() + _WAIT_S
    while True:
        with contextlib.suppress(UnreachableError):
            client = ControlClient(f"{HERE}/run/control.sock")
            client.ask("version")
            return process, client
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise AssertionError((HERE / "log").read_text())
        time.sleep(0.05)


def said(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def stands(vm: str) -> dict[str, str | None]:
    """Return what stands for the VM, by other eyes than xenwarden's."""
    domid = said("xl", "domid", vm)
    shown = said("tc", "filter", "show", "dev", f"vif{domid}.0", "ingress")
    rates = set(re.findall(r"pkts_rate (\d+)", shown))
    return {
        "cap": said("xl", "sched-credit", "-d", vm).split()[-1],
        "vif-rate": said("xenstore-read", f"/local/domain/0/backend/vif/{domid}/0/rate") or None,
        "vif-pps/syn": ",".join(sorted(rates)) or None,
    }


def play(point: Point, vm: str, original: dict[str, str | None]) -> str:
    """Have the daemon die at the point; return how it ended."""
    shutil.rmtree(HERE / "state", ignore_errors=True)
    ARMED.unlink(missing_ok=True)
    process, client = start(sys.executable, __file__, "daemon", str(POINTS.index(point)))
    order = {"vm": vm, "orders": ORDERS, "for_s": None, "dry_run": False}
    if point.release:
        client.ask("limit", **order)
        assert stands(vm) == LIMITED
    ARMED.touch()
    try:
        client.ask("release", vm=vm, dry_run=False) if point.release else client.ask("limit", **order)
    except UnreachableError:
        pass
    else:
        process.kill()
        raise AssertionError("the daemon outlived its point")
    assert process.wait(_WAIT_S) == -signal.SIGKILL
    for place, value in stands(vm).items():
        assert value in (LIMITED[place], original[place]), f"{place} is {value} after the death"
    process, client = start("xenwardend", *places())
    try:
        limits = {row["kind"]: row for row in client.ask("limits", vm=vm)}
        assert all(row["state"] == "set" for row in limits.values()), limits
        found = stands(vm)
        assert found == {place: LIMITED[place] if place in limits else original[place] for place in LIMITED}
        client.ask("release", vm=vm, dry_run=False)
        assert stands(vm) == original
    finally:
        process.terminate()
        process.wait(_WAIT_S)
    ended = {frozenset(): "as it was", frozenset(LIMITED): "limited"}
    return ended[frozenset(limits)]


def main() -> None:
    """Play all points."""
    if sys.argv[1] == "daemon":
        be_daemon(POINTS[int(sys.argv[2])])
        return
    vm = sys.argv[1]
    HERE.mkdir(exist_ok=True)
    (HERE / "policy").write_text("tick_s: 600\n")  # ticks come with a start, and no other
    original = stands(vm)
    for point in POINTS:
        ended = play(point, vm, original)
        name = f"{'release' if point.release else 'limit'}: {point.what}"
        print(json.dumps({"point": name, "ended": ended}), flush=True)


if __name__ == "__main__":
    main()
