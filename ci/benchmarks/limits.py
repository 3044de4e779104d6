# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits: what each kind does to a VM on real Xen, and what deciding them costs.

The lab plays `limits-credit.yaml` and `limits-credit2.yaml`, beside this file: real shares, rates and
packets beside what was ordered, speeds after release beside those of a VM that was never limited. A
hundred VMs limited at once beside a hundred times one: the hypervisor is the one in memory there, so
that what is measured is the engine and its journal on this machine's disk.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from benchmarks._play import play
from benchmarks.figures import Figure, figure
from xenwarden_host.daemon.clock import SystemClock
from xenwarden_host.libxl.fake import FakeHypervisor
from xenwarden_host.limits.engine import LimitEngine
from xenwarden_host.limits.fake import FakeVifs
from xenwarden_host.limits.journal import Journal
from xenwarden_host.records import LimitKey, LimitState

if TYPE_CHECKING:
    from xenlab.moments import Outcome

MANY = 100
TURNS = 7
KEYS = tuple(LimitKey.parse(text) for text in ("cap", "vif-rate", "vif-pps/syn"))
HERE = Path(__file__).parent
XL = "xl sched-credit -d -c"
_STUDENT = 1.729  # of Student's t, 95 % on one side with 19 degrees of freedom: twenty pairs


def run() -> list[Figure]:
    """Measure; about ten minutes, two of them where images and snapshots are made."""
    credit, credit2 = (play(HERE / f"limits-{scheduler}.yaml") for scheduler in ("credit", "credit2"))
    return [*_many(), *_credit(credit), *_caps(credit2, "credit2")]


def _credit(outcome: Outcome) -> list[Figure]:
    ours, order, xl = (number for _, number in outcome.saved["latency"])
    return [
        *_caps(outcome, "credit"),
        *(
            figure
            for asked in (5, 10, 50)
            for figure in _close(
                f"vif_rate_{asked}", _saved(outcome, f"vif_rate_{asked}") * 8 / 1e6, "Mbit/s", asked, 0.15
            )
        ),
        *(
            _at_most(
                f"vif_rate_{asked}_two_queues", _saved(outcome, f"queues_{asked}") * 8 / 1e6, "Mbit/s", asked
            )
            for asked in (10, 50)
        ),
        *_close("syn_100_at_the_victim", _saved(outcome, "syn_100"), "packets/s", 100, 0.2),
        *(
            figure
            for asked in (1, 10)
            for figure in _close(
                f"vbd_io_{asked}_reads", _saved(outcome, f"vbd_io_{asked}") / 2048, "MiB/s", asked, 0.1
            )
        ),
        figure("limits.until_read_back", ours, "ms", peer=XL, peer_value=xl, at_most=0.2),
        figure("limits.order_over_the_socket", order, "ms", peer=XL, peer_value=xl, at_most=0.3),
        *(_after_release(outcome, name) for name in ("spin", "send", "read")),
    ]


def _caps(outcome: Outcome, scheduler: str) -> list[Figure]:
    return [
        figure
        for cap in (10, 25, 50)
        for figure in _close(f"cap_{cap}_{scheduler}", _saved(outcome, f"cap_{cap}"), "% of a CPU", cap, 0.15)
    ]


def _close(name: str, value: float, unit: str, asked: float, tolerance: float) -> list[Figure]:
    """Return that the value is at most and at least what was asked, with this tolerance."""
    return [
        figure(f"limits.{name}", value, unit, peer="asked", peer_value=asked, at_most=1 + tolerance),
        figure(f"limits.{name}", value, unit, peer="asked", peer_value=asked, at_least=1 - tolerance),
    ]


def _at_most(name: str, value: float, unit: str, asked: float) -> Figure:
    return figure(f"limits.{name}", value, unit, peer="asked", peer_value=asked, at_most=1)


def _after_release(outcome: Outcome, name: str) -> Figure:
    """Return the lower bound of busy's speed after its release beside twin's, as a ratio of both."""
    logs = [math.log(ratio) for _t, ratio in outcome.saved[f"after_{name}"]]
    low = statistics.fmean(logs) - _STUDENT * statistics.stdev(logs) / math.sqrt(len(logs))
    return figure(
        f"limits.{name}_after_release_95_low",
        math.exp(low),
        "of twin's",
        peer="a VM never limited",
        peer_value=1,
        at_least=0.9,
    )


def _saved(outcome: Outcome, name: str, take: str = "last") -> float:
    return outcome.figure({"of": name, "take": take})


def _many() -> list[Figure]:
    one, many = [], []
    for _ in range(TURNS):  # in turn, so that a disturbance meets both
        one.append(_limit_and_lift(1))
        many.append(_limit_and_lift(MANY))
    return [
        figure(
            f"limits.set_and_lift_{MANY}_vms",
            statistics.median(many) * 1000,
            "ms",
            peer=f"{MANY} x one VM",
            peer_value=statistics.median(one) * 1000 * MANY,
            at_most=1,
        )
    ]


def _limit_and_lift(vms: int) -> float:
    """Return the seconds from deciding three limits on each VM to reading back that they are lifted again."""
    xen, vifs = FakeHypervisor(), FakeVifs()
    uuids = [str(UUID(int=n + 1)) for n in range(vms)]
    for uuid in uuids:
        vifs.add(xen.add(uuid))
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "state.db")
        engine = LimitEngine(xen, vifs, journal, SystemClock())
        start = time.perf_counter()
        for uuid in uuids:
            for key in KEYS:
                engine.want(uuid, key, 50, "hsem", "measured")
        states = [event.state for event in engine.reconcile(xen.list_domains())]
        engine.lift_all(None)
        states += [event.state for event in engine.reconcile(xen.list_domains())]
        took = time.perf_counter() - start
        journal.close()
    expected = [LimitState.SET] * len(KEYS) * vms + [LimitState.LIFTED] * len(KEYS) * vms
    if states != expected:
        raise SystemExit("ci/bench limits: not every limit was set and lifted")
    return took
