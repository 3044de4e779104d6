# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon dies before and after every call to Xen, to the vifs and to the journal.

The points are counted, not listed: a call that is added to the engine is a point by itself. After the
death the engine starts from its journal, whoever decides says again what was not reconciled yet, and
the story goes on. It must end as the one in which nobody died.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from limits_harness import CAP, MEMORY, PAUSE, RATE, SYN, UDP, VCPUS, VIF_IN, VM, WEIGHT, Fault, Host, Killed

from xenwarden_host.limits.journal import JournalError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Step = Callable[[Host], Any]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory: thousands of synchronous commits would wait for the disk."""
    made = Path(tempfile.mkdtemp(prefix="xenwarden-faults-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


def want(key: Any, value: int, owner: str = "hsem") -> Step:
    return lambda host: host.want(key, value, owner)


def tick(host: Host) -> None:
    host.tick()


def outside(change: Step) -> Step:
    """Mark what an admin or Xen does: it happens once, whoever dies."""
    change.outside = True  # type: ignore[attr-defined]
    return change


def admin(host: Host) -> None:
    host.xen.set_sched_params(host.domid, cap=70)
    host.vifs.set_rate(host.domid, 0, "999999,50000")


def plug(host: Host) -> None:
    host.vifs.add(host.domid, 1, queues=2)


def reboot(host: Host) -> None:
    """`xl` bakes the cap into the new domain's configuration."""
    cap = host.xen.sched_params(host.domid).cap
    host.xen.destroy(host.domid)
    host.domid = host.xen.add(VM, "mallory", cap=cap or 0)
    host.vifs.add(host.domid)


STORIES: dict[str, list[Step]] = {
    "set and lift": [
        want(CAP, 20),
        want(RATE, 10**6),
        want(SYN, 100),
        tick,
        lambda h: h.engine.lift_all(VM),
        tick,
    ],
    "changed twice": [
        want(CAP, 20),
        tick,
        want(CAP, 30),
        want(UDP, 9),
        tick,
        want(CAP, 10, "operator:root"),
        tick,
    ],
    "admin": [
        want(CAP, 20),
        want(RATE, 10**6),
        tick,
        outside(admin),
        tick,
        lambda h: h.engine.lift_all(VM),
        tick,
    ],
    "admin, still held": [want(CAP, 20), want(RATE, 10**6), tick, outside(admin), tick],
    "migrated": [want(CAP, 20), want(RATE, 10**6), want(SYN, 5), tick, outside(Host.migrate), tick],
    "rebooted and lifted": [
        want(CAP, 20),
        tick,
        outside(reboot),
        tick,
        lambda h: h.engine.lift(VM, CAP, "hsem"),
        tick,
    ],
    "lifted, then rebooted": [want(CAP, 20), tick, lambda h: h.engine.lift_all(VM), outside(reboot), tick],
    "weight, memory and vCPUs": [
        *(want(WEIGHT, 64), want(MEMORY, 1 << 16), want(VCPUS, 1), tick, outside(Host.migrate), tick),
        *(lambda h: h.engine.lift_all(VM), tick),
    ],
    "inbound": [want(VIF_IN, 10**6), want(SYN, 5), tick, outside(Host.migrate), tick],
    "paused": [want(PAUSE, 1), tick],
    "paused and resumed": [want(PAUSE, 1), tick, lambda h: h.engine.lift_all(VM), tick],
    "plugged": [
        want(RATE, 10**6),
        want(SYN, 5),
        tick,
        outside(plug),
        tick,
        lambda h: h.engine.lift_all(None),
        tick,
    ],
}


def tell(folder: Path, story: list[Step], fault: Fault) -> Host:
    """Live through `story`; the daemon that dies is started again."""
    folder.mkdir()
    host = Host(folder, cap=90)
    said: list[Step] = []  # since the last tick
    for step in [lambda h: h.restart(fault), *story]:
        if step in story and not hasattr(step, "outside"):
            said = [*said, step]
        try:
            step(host)
        except Killed:
            host.restart()
            for again in said:
                again(host)
        if step is tick:
            said = []
    host.restart()
    host.tick()
    return host


def ends(host: Host) -> Any:
    vifs = {devid: (vif.rate, vif.police, vif.in_bps) for devid, vif in host.vifs.vifs[host.domid].items()}
    status = [(s.key, s.value, s.original, s.state, s.owner) for s in host.engine.status()]
    places = sorted((p.id, p.active, p.original) for p in host.journal.places()) if host.journal else []
    xen, domid = host.xen, host.domid
    counts = xen.pauses[domid], xen.targets_kb[domid], xen.vcpus[domid]
    return xen.sched_params(domid), counts, vifs, status, places


@pytest.mark.parametrize("name", STORIES)
def test_dying_at_any_point_changes_nothing_in_the_end(
    name: str, folder: Path, record_property: Callable[[str, object], None]
) -> None:
    story = STORIES[name]
    quiet = Fault()
    expected = ends(tell(folder / "quiet", story, quiet))
    points = len(quiet.points)
    assert points > 5
    for at in range(points):
        for after in (False, True):
            host = tell(folder / f"{at}-{after}", story, Fault(at, after=after))
            assert ends(host) == expected, (
                f"died {'after' if after else 'before'} point {at}: {quiet.points[at]}"
            )
    record_property("fault_points", 2 * points)


@pytest.mark.parametrize("name", STORIES)
def test_after_any_death_each_place_has_what_was_decided_or_what_was_there(name: str, folder: Path) -> None:
    """Nobody repeats anything: the engine alone, from its journal."""
    quiet = Fault()
    tell(folder / "quiet", STORIES[name], quiet)
    for at in range(len(quiet.points)):
        life = folder / str(at)
        life.mkdir()
        host = Host(life, cap=90)
        with contextlib.suppress(Killed):
            host.restart(Fault(at))
            for step in STORIES[name]:
                step(host)
        host.restart()
        host.tick()
        for status in host.engine.status():
            assert status.state is LimitState.SET, status
        host.engine.lift_all(None)
        host.tick()
        natives = {90, 70} if admin in STORIES[name] else {90}
        assert host.cap in natives
        assert all(not vif.police for vif in host.vifs.vifs[host.domid].values())
        assert {vif.rate for vif in host.vifs.vifs[host.domid].values()} <= {None, "999999,50000"}


def test_without_a_journal_nothing_new_is_set_and_what_is_set_is_still_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, cap=90)
    host.want(CAP, 20)
    host.tick()

    def full(**_: Any) -> None:
        raise JournalError("cannot write the limit journal: disk full")

    with monkeypatch.context() as patch:
        patch.setattr(host.journal, "save", full)
        host.want(RATE, 10**6)
        (event,) = host.tick()
        assert (event.key, event.state, host.rate) == (RATE, LimitState.FAILED, None)
        host.engine.lift(VM, CAP, "hsem")
        host.tick()
        assert host.cap == 90
    host.tick()
    assert host.rate == "5000,40000"
    host.restart()
    host.tick()
    assert (host.cap, host.rate) == (90, "5000,40000")
