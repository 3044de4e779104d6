# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limit engine: a hundred VMs limited at once beside a hundred times one, on a real journal.

The hypervisor is the one in memory, so that what is measured is the engine and its journal on this
machine's disk. What real limits do and cost is measured in the lab.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from uuid import UUID

from benchmarks.figures import Figure, figure
from xenwarden_host.daemon.clock import SystemClock
from xenwarden_host.libxl.fake import FakeHypervisor
from xenwarden_host.limits.engine import LimitEngine
from xenwarden_host.limits.fake import FakeVifs
from xenwarden_host.limits.journal import Journal
from xenwarden_host.records import LimitKey, LimitState

MANY = 100
TURNS = 7
KEYS = tuple(LimitKey.parse(text) for text in ("cap", "vif-rate", "vif-pps/syn"))


def run() -> list[Figure]:
    """Measure; some seconds."""
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
