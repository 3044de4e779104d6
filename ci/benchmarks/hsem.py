# SPDX-License-Identifier: LGPL-2.1-or-later
"""What deciding costs: per report, for a thousand VMs, after a long history, and the rate of a replay."""

from __future__ import annotations

import gc
import json
import random
import time
import tracemalloc
from typing import TYPE_CHECKING

from benchmarks.figures import figure
from xenwarden_channel import signals
from xenwarden_host.hrem.history import History
from xenwarden_host.hsem.hsem import Hsem
from xenwarden_host.policy.load import defaults
from xenwarden_host.records import AgentState, Report, Snapshot, VmType, VmView
from xenwarden_host.replay.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.figures import Figure

MOST_LEVEL1_US, MOST_LEVEL2_US = 50.0, 200.0
MANY_VMS = 1000
MOST_CPU_PCT, MOST_MB = 3.0, 40.0
LEAST_RECORDS_PER_MIN = 500_000
GROWTH = 1.15  # what the noise of a shared machine makes of nothing
INTERVAL_S = 5

_PRIORS = defaults().profiles["unknown"]
_GUEST = signals.names(signals.VSEM, signals.VREM)
# What dom0's own agent sees of a few VMs at level 2, and addresses claimed, is nothing that all have.
_CLAIMS = {"arp_claim_pps", "arp_claimed_pps"}
_SELDOM = {"vif_police_drop_pps", *_CLAIMS, *(f"{signals.BY_DOM0}{name}" for name in signals.HEADERS)}
_DOM0 = [name for name in signals.names(signals.HREM) if name not in _SELDOM]


def _values(names: list[str], noise: random.Random) -> dict[str, float]:
    """Return all signals of an ordinary VM: a fifth of the prior, give or take."""
    return {name: 0.2 * _PRIORS.get(name, 50.0) * (0.5 + noise.random()) for name in names}


class _Load:
    """VMs of which all signals are there; each reports every INTERVAL_S ticks, or every tick at level 2."""

    def __init__(self, vms: int, *, suspect: bool = False) -> None:
        self._noise = random.Random(1)  # noqa: S311  a load, no secret
        self._vms = vms
        self._suspect = suspect
        self._now_s = 1000.0
        self._seq = 0
        policy = defaults()
        self.core = Hsem(policy, History(policy))
        self._reports: list[Report | None] = [None] * vms

    def ticks(self, count: int) -> Iterator[Snapshot]:
        """Yield the next snapshots."""
        for _ in range(count):
            self._now_s += 1.0
            yield Snapshot(self._now_s, 1.7e9 + self._now_s, tuple(self._view(n) for n in range(self._vms)))

    def _view(self, number: int) -> VmView:
        fresh = self._suspect or (int(self._now_s) + number) % INTERVAL_S == 0
        hrem = _values(_DOM0, self._noise)
        if fresh:
            self._seq += 1
            values = _values(_GUEST, self._noise)
            if self._suspect:  # unusual, and like no attack: the longest way through the rules
                values |= {"tx_syn_pps": 500.0, "rx_synack_pps": 400.0, "tx_pps": 5000.0}
            level, interval_s = (2, 1.0) if self._suspect else (1, float(INTERVAL_S))
            self._reports[number] = Report(
                self._seq, "00000001", level, "", (), interval_s, values, (), "0", 9000, 1.0, 60.0, 0, 12
            )
        return VmView(
            f"00000000-0000-0000-0000-{number:012d}", number + 1, f"vm{number}", VmType.PV, 1, 100.0, False,
            hrem, AgentState.ALIVE, self._reports[number], fresh, 0.0, None,
        )  # fmt: skip

    def cpu_s(self, count: int) -> float:
        """Return the CPU time of deciding on so many ticks, and on nothing else."""
        used = 0.0
        for snapshot in self.ticks(count):
            begun = time.process_time()
            self.core.decide(snapshot)
            used += time.process_time() - begun
        return used


def _per_report_us(*, suspect: bool) -> float:
    """Return the cost of a tick in which the one VM reports, the least of several rounds."""
    load = _Load(1, suspect=suspect)
    rounds = []
    for _ in range(5):
        if suspect:  # a new case each time: it ends as neither after some seconds
            load = _Load(1, suspect=True)
            load.cpu_s(1)
            rounds.append(load.cpu_s(8) / 8)
        else:
            used, reports = 0.0, 0
            for snapshot in load.ticks(1000):
                begun = time.process_time()
                load.core.decide(snapshot)
                if snapshot.vms[0].report_is_new:
                    used += time.process_time() - begun
                    reports += 1
            rounds.append(used / reports)
    return min(rounds) * 1e6


def _memory_mb() -> float:
    """Return what a thousand VMs hold in history and decisions after 130 ticks."""
    gc.collect()
    tracemalloc.start()
    try:
        load = _Load(MANY_VMS)
        for snapshot in load.ticks(130):
            load.core.decide(snapshot)
        del snapshot
        load._reports.clear()  # noqa: SLF001  the daemon's, not the core's
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / 1e6
    finally:
        tracemalloc.stop()


def _growth() -> tuple[float, float]:
    """Return the cost per tick of 20 VMs at the begin and after 3,000 ticks, in µs."""
    load = _Load(20)
    load.cpu_s(50)
    first = min(load.cpu_s(100) for _ in range(3)) / 100
    load.cpu_s(3000)
    return first * 1e6, min(load.cpu_s(100) for _ in range(3)) / 100 * 1e6


def _records_per_min() -> float:
    noise = random.Random(1)  # noqa: S311  likewise
    lines = [b'{"xenwarden_recording":1,"interval_s":5}\n']
    for step in range(1000):
        for number in range(10):
            line = {
                "t": step * 5.0,
                "vm": f"vm{number}",
                "signals": {name: round(value, 3) for name, value in _values(_GUEST, noise).items()},
            }
            lines.append(json.dumps(line).encode() + b"\n")
    run = Replay(defaults())
    begun = time.process_time()
    for _event in run.run(lines, ""):
        pass
    return run.records / (time.process_time() - begun) * 60


def run() -> list[Figure]:
    """Measure the group; about 20 s."""
    first_us, later_us = _growth()
    many = _Load(MANY_VMS)
    many.cpu_s(5)
    return [
        figure("hsem.level1_report", _per_report_us(suspect=False), "us", peer="limit",
               peer_value=MOST_LEVEL1_US, at_most=1),
        figure("hsem.level2_report", _per_report_us(suspect=True), "us", peer="limit",
               peer_value=MOST_LEVEL2_US, at_most=1),
        figure("hsem.many_vms_cpu", 100 * many.cpu_s(20) / 20, "% of a core", peer="limit",
               peer_value=MOST_CPU_PCT, at_most=1),
        figure("hsem.many_vms_memory", _memory_mb(), "MB", peer="limit", peer_value=MOST_MB, at_most=1),
        figure("hsem.long_history", later_us, "us/tick", peer="the same core at its begin",
               peer_value=first_us, at_most=GROWTH),
        figure("hsem.replay_rate", _records_per_min(), "records/min", peer="goal",
               peer_value=LEAST_RECORDS_PER_MIN, at_least=1),
    ]  # fmt: skip
