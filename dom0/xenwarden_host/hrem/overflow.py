# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find VMs that take all they can of something, unlike their history. Pure: no host, no store, no clock.

The same measure holds for all: a VM is at it while the signal is at least `full`, without a break. It
is unlike its history where that is long enough to be one, and knows less than `known_s` of it. What
is found is HSEM's to judge; what is learnt follows the rules of the one history: nothing while the VM
is watched or contained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from xenwarden_host.records import AgentState, Overflow, VmType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xenwarden_host.hrem.history import History
    from xenwarden_host.policy.model import Policy
    from xenwarden_host.records import Snapshot, VmView

_BY_DOM0 = (("cpu", "vcpu_pct"), ("events", "event_ps"), ("disk", "vbd_full_ps"), ("asks", "ask_ps"))
_BY_AGENT = (("memory", "mem_used_pct"), ("forks", "fork_ps"))
# What a VM gets of CPU is not all that it wants while it has to share: only its agent knows the rest.
_WANTED = "wanted"
_MAX_GAP_S = 30.0  # what was not measured for longer is not known any more

Dumped = dict[str, list[float]]  # by gauge: since when, until when, learnt until, value


class _Gauge(NamedTuple):
    of: str
    signal: str
    full: float
    for_s: float


class _Run:
    """One time at it, without a break."""

    __slots__ = ("at_s", "learnt_s", "since_s", "value")

    def __init__(self, since_s: float, at_s: float, learnt_s: float, value: float) -> None:
        self.since_s = since_s
        self.at_s = at_s  # of the last observation
        self.learnt_s = learnt_s  # the history has it until then
        self.value = value


class Overflows:
    """All VMs' times at it."""

    def __init__(self, policy: Policy, history: History) -> None:
        self._history = history
        self._runs: dict[str, dict[str, _Run]] = {}
        self.set_policy(policy)

    def set_policy(self, policy: Policy) -> None:
        """Take a new policy."""
        self._policy = policy.overflow

        def gauge(of: str, signal: str) -> _Gauge:
            values = policy.overflow.gauges[of]
            return _Gauge(of, signal, values.full, values.for_s)

        self._by_dom0 = [(of, gauge(of, signal)) for of, signal in _BY_DOM0]
        self._by_agent = [(of, gauge(of, signal)) for of, signal in _BY_AGENT]
        self._wanted = (_WANTED, gauge("cpu", "cpu_pct"))
        self._gauges = dict([*self._by_dom0, *self._by_agent, self._wanted])

    def find(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with what was found of each VM; once for each tick."""
        now_s = snapshot.now_s
        found: dict[str, VmView] = {}
        for view in snapshot.vms:
            if view.service or view.vm_type is VmType.DOM0:
                continue
            self._observe(view, now_s)
            runs = self._runs.get(view.uuid)
            if runs and (overflows := self._judge(view, runs, now_s)):
                found[view.uuid] = replace(view, overflows=overflows)
        here = {view.uuid for view in snapshot.vms}
        if self._runs:
            self._runs = {uuid: runs for uuid, runs in self._runs.items() if runs and uuid in here}
        if not found:
            return snapshot
        return replace(snapshot, vms=tuple(found.get(view.uuid, view) for view in snapshot.vms))

    def dump(self) -> dict[str, Dumped]:
        """Return what goes on now, by UUID, for a recording."""
        return {
            uuid: {name: [run.since_s, run.at_s, run.learnt_s, run.value] for name, run in runs.items()}
            for uuid, runs in self._runs.items()
        }

    def restore(self, uuid: str, dumped: Mapping[str, Sequence[float]]) -> None:
        """Take back what `dump` gave of a VM.

        Raises:
            ValueError: the data is no such dump.
        """
        try:
            runs = {name: _Run(*map(float, numbers)) for name, numbers in dumped.items()}
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no overflow: {error!r}") from None
        self._runs[uuid] = {name: run for name, run in runs.items() if name in self._gauges}

    def _observe(self, view: VmView, now_s: float) -> None:
        """Take what was measured of the VM in this tick."""
        runs = self._runs.get(view.uuid)
        if hrem := view.hrem:
            for name, gauge in self._by_dom0:
                value = hrem.get(gauge.signal)
                # This is asked of all VMs at each tick, and nearly always answered no.
                if value is not None and value >= gauge.full:
                    runs = self._at_it(view.uuid, name, value, now_s, now_s)
                elif runs:
                    runs.pop(name, None)
        report = view.report
        if report is not None and view.report_is_new and view.agent is AgentState.ALIVE:
            signals, since_s = report.signals, now_s - report.interval_s
            for name, gauge in (*self._by_agent, self._wanted):
                value = signals.get(gauge.signal)
                if name == _WANTED and value is not None:
                    value += signals.get("steal_pct", 0.0)
                if value is not None and value >= gauge.full:
                    runs = self._at_it(view.uuid, name, value, since_s, now_s)
                elif runs:
                    runs.pop(name, None)

    def _at_it(self, uuid: str, name: str, value: float, since_s: float, now_s: float) -> dict[str, _Run]:
        runs = self._runs.setdefault(uuid, {})
        run = runs.get(name)
        if run is None or since_s - run.at_s > _MAX_GAP_S:
            run = runs[name] = _Run(since_s, now_s, since_s, value)
        run.at_s, run.value = now_s, value
        return runs

    def _judge(self, view: VmView, runs: Mapping[str, _Run], now_s: float) -> tuple[Overflow, ...]:
        policy, history = self._policy, self._history
        found: dict[str, Overflow | None] = {}
        for name, run in runs.items():
            gauge, for_s = self._gauges[name], run.at_s - run.since_s
            if for_s < gauge.for_s or now_s - run.at_s > _MAX_GAP_S or gauge.of in found:
                continue
            known_s = history.full_s(view.uuid, gauge.of, now_s)
            if name == _WANTED:
                # dom0's counts would have found it after for_s, and taught the history the rest meanwhile.
                known_s += max(0.0, run.at_s - run.learnt_s - gauge.for_s)
            if run.at_s > run.learnt_s:
                history.learn_full(view.uuid, gauge.of, run.at_s - run.learnt_s, now_s)
                run.learnt_s = run.at_s
            unlike = view.known_s >= policy.after_s and known_s < policy.known_s
            found[gauge.of] = (
                Overflow(gauge.of, gauge.signal, run.value, gauge.full, for_s, known_s) if unlike else None
            )
        return tuple(item for item in found.values() if item is not None)
