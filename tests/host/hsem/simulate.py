# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host in memory: scripted VMs whose traffic our limits act on, seen as dom0 and agents would see it.

Deterministic: one tick is one second, agents report every 5 s at level 1 and every second at level 2,
limits are in force from the tick after they were decided.
"""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xenwarden_channel import signals
from xenwarden_host.hrem.history import History
from xenwarden_host.hrem.overflow import Overflows
from xenwarden_host.hsem.hsem import Hsem
from xenwarden_host.policy.load import defaults
from xenwarden_host.records import (
    Action,
    AgentState,
    Alert,
    Answer,
    Ask,
    Level,
    LiftLimit,
    LimitKey,
    OrderLevel,
    Peer,
    Report,
    SetLimit,
    Snapshot,
    Transition,
    Verdict,
    VmState,
    VmType,
    VmView,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenwarden_host.policy.model import Policy

SYN = LimitKey.parse("vif-pps/syn")
UDP = LimitKey.parse("vif-pps/udp")
ICMP = LimitKey.parse("vif-pps/icmp")
RATE = LimitKey.parse("vif-rate")
CAP = LimitKey.parse("cap")
TCP = LimitKey.parse("vif-pps/tcp")
POLICED = {"syn": SYN, "udp": UDP, "icmp": ICMP, "stray": TCP}
CLOSER = ("tcp_stalling", "tcp_stalled")  # an agent tells them at level 2
BRIEF = tuple(signals.names(signals.VSEM, signals.VREM))


@dataclass
class Flood:
    """Packets of one kind from one VM to another (or to outside) while it lasts."""

    sender: str
    receiver: str | None
    kind: str  # "syn", "udp", "icmp", or "stray": TCP of no connection
    pps: float
    start_s: float
    end_s: float = 1e9
    size_bytes: float = 60.0
    answered: float = 0.0  # share that the receiver answers (SYN+ACK; UDP for UDP)


@dataclass
class SimVm:
    """One VM of the host: what it does by itself, its agent, and what became of it."""

    name: str
    agent: bool = True
    base: dict[str, float] = field(default_factory=dict)  # the agent's signals, always there
    base_hrem: dict[str, float] = field(default_factory=dict)
    script: Callable[[float], dict[str, float]] = field(default=lambda _t: {})
    lies: bool = False  # the agent tells of its quiet self only
    answers: bool = True
    vcpus: int = 1
    vm_type: VmType = VmType.PV
    paused: bool = False
    domid: int = 0
    uuid: str = ""
    phase: int = 0
    # running state
    level: Level = Level.ONE
    self_raised: bool = False
    over: frozenset[str] = frozenset()
    calm: int = 0
    window: list[dict[str, float]] = field(default_factory=list)
    seq: int = 0
    report: Report | None = None
    report_s: float | None = None
    answer: Answer | None = None
    limits: dict[LimitKey, int] = field(default_factory=dict)
    by_operator: frozenset[LimitKey] = frozenset()  # in force beside HSEM's
    born_s: float = 0.0
    silent_from_s: float = 1e9
    destinations: tuple[Peer, ...] = ()  # its agent tells at level 2
    starved_s: int = 0  # the agent gets to run only every so many seconds


class Host:
    """The host, HSEM on it, and all that it did."""

    def __init__(self, *vms: SimVm, floods: tuple[Flood, ...] = (), policy: Policy | None = None) -> None:
        self.policy = policy or defaults()
        self.history = History(self.policy)
        self.overflows = Overflows(self.policy, self.history)
        self.hsem = Hsem(self.policy, self.history)
        self.vms = {vm.name: vm for vm in vms}
        self.floods = list(floods)
        self.now_s = 1000.0
        self.log: list[tuple[float, Action]] = []
        self.counts_drops = True  # whether dom0 knows what its packet limits drop
        for domid, vm in enumerate(vms, 1):
            vm.domid = 0 if vm.vm_type is VmType.DOM0 else domid
            vm.uuid = vm.uuid or str(uuids.uuid5(uuids.NAMESPACE_DNS, vm.name))
            vm.born_s = self.now_s - 60
            vm.phase = domid % 5

    # --- asking ---

    def state(self, name: str) -> VmState:
        return self.hsem.state(self.vms[name].uuid)

    def actions(self, name: str, *kinds: type[Any]) -> list[tuple[float, Any]]:
        uuid = self.vms[name].uuid
        return [
            (t - 1000.0, a) for t, a in self.log if a.uuid == uuid and (not kinds or isinstance(a, kinds))
        ]

    def verdicts(self, name: str) -> list[tuple[float, Verdict]]:
        return [(t, a.verdict) for t, a in self.actions(name, Transition) if a.verdict is not None]

    def verdict(self, name: str) -> Verdict | None:
        found = self.verdicts(name)
        return found[-1][1] if found else None

    def limited(self, name: str) -> list[tuple[float, SetLimit]]:
        return self.actions(name, SetLimit)

    def alerts(self, name: str) -> list[str]:
        return [a.what for _t, a in self.actions(name, Alert)]

    # --- running ---

    def run(self, seconds: int) -> Host:
        for _ in range(seconds):
            self.tick()
        return self

    def until(self, name: str, state: VmState, at_most: int = 60) -> float:
        """Run until the VM is in `state`; return how long it took."""
        for second in range(at_most):
            if self.state(name) is state:
                return float(second)
            self.tick()
        raise AssertionError(f"{name} is {self.state(name)} after {at_most} s, not {state}")

    def restart_daemon(self) -> None:
        """A new daemon with what the old one kept; the clock of the new boot begins elsewhere."""
        kept, learnt = self.hsem.dump(), {u: self.history.dump(u) for u in self.history.uuids()}
        self.history = History(self.policy)
        for uuid, data in learnt.items():
            self.history.restore(uuid, data)
        self.overflows = Overflows(self.policy, self.history)
        self.hsem = Hsem(self.policy, self.history)
        self.hsem.restore(kept)

    def tick(self) -> list[Action]:
        self.now_s += 1.0
        seconds = self.now_s - 1000.0
        guest, hrem = self._traffic(seconds)
        views = []
        for name, vm in self.vms.items():
            fresh = self._agent(vm, guest[name]) if vm.agent and not vm.paused else False
            if not self.counts_drops:
                del hrem[name]["vif_police_drop_pps"]
            views.append(self._view(vm, hrem[name], fresh))
        snapshot = Snapshot(self.now_s, 1.7e9 + self.now_s, tuple(views))
        actions = self.hsem.decide(self.overflows.find(snapshot))
        self.apply(actions)
        return actions

    def apply(self, actions: list[Action]) -> None:
        by_uuid = {vm.uuid: vm for vm in self.vms.values()}
        for action in actions:
            self.log.append((self.now_s, action))
            vm = by_uuid[action.uuid]
            match action:
                case SetLimit():
                    vm.limits[action.key] = action.value
                case LiftLimit():
                    del vm.limits[action.key]
                case OrderLevel():
                    vm.level = action.level
                    if action.level is Level.ONE:
                        vm.self_raised = False
                case Ask() if vm.answers and vm.agent:
                    vm.answer = Answer(action.ask_id, 12.0, 0, 12, {})

    def _traffic(self, seconds: float) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
        """Return the agents' and dom0's signals of this second, floods and limits taken together."""
        guest = {}
        hrem = {}
        for name, vm in self.vms.items():
            own = {"tx_pps": 10.0, "rx_pps": 10.0, "tx_bps": 40e3, "rx_bps": 40e3, "tx_dests": 3.0}
            kinds = ("syn", "udp", "icmp", "synack", "rst")
            own |= {f"{way}_{kind}_pps": 0.2 for way in ("tx", "rx") for kind in kinds}
            own |= vm.base | vm.script(seconds)
            guest[name] = own
            counted = {f"vif_{w}_{u}": own[f"{w}_{u}"] for w in ("tx", "rx") for u in ("pps", "bps")}
            hrem[name] = {
                **counted,
                "vcpu_pct": 5.0,
                "event_ps": 50.0,
                "vif_rx_drop_pps": 0.0,
                **vm.base_hrem,
            }
            hrem[name] |= {k: v for k, v in own.items() if k in hrem[name]}
            hrem[name]["vif_police_drop_pps"] = 0.0
        for flood in self.floods:
            if flood.start_s < seconds <= flood.end_s and not self.vms[flood.sender].paused:
                self._flood(flood, guest, hrem)
        return guest, hrem

    def _flood(
        self, flood: Flood, guest: dict[str, dict[str, float]], hrem: dict[str, dict[str, float]]
    ) -> None:
        sender = self.vms[flood.sender]
        bits = flood.size_bytes * 8
        passed = flood.pps
        limit = sender.limits.get(POLICED[flood.kind]) if flood.kind in POLICED else None
        if limit is not None and passed > limit:
            hrem[flood.sender]["vif_police_drop_pps"] += passed - limit
            passed = limit
        kind = None if flood.kind == "stray" else flood.kind  # no class of its own
        _add(guest[flood.sender], "tx", kind, flood.pps, bits)
        _add(hrem[flood.sender], "vif_tx", None, flood.pps, bits)
        back = passed * flood.answered
        answer = {"syn": "synack", "stray": "rst"}.get(flood.kind, flood.kind)
        _add(guest[flood.sender], "rx", answer, back, bits)
        _add(hrem[flood.sender], "vif_rx", None, back, bits)
        if flood.receiver is not None:
            _add(guest[flood.receiver], "rx", kind, passed, bits)
            _add(hrem[flood.receiver], "vif_rx", None, passed, bits)
            _add(guest[flood.receiver], "tx", answer, back, bits)
            _add(hrem[flood.receiver], "vif_tx", None, back, bits)

    def _agent(self, vm: SimVm, now: dict[str, float]) -> bool:
        """Let the agent look, and report where its interval is over; return whether it did."""
        if self.now_s - 1000.0 >= vm.silent_from_s:
            return False
        if vm.lies:
            now = {"tx_pps": 10.0, "rx_pps": 10.0, "tx_bps": 40e3, "rx_bps": 40e3, "tx_syn_pps": 0.2}
        vm.window.append(now)
        interval_s = vm.starved_s or (5 if vm.level is Level.ONE and not vm.self_raised else 1)
        if (int(self.now_s) + vm.phase) % interval_s:
            return False
        mean = {k: sum(w.get(k, 0.0) for w in vm.window) / len(vm.window) for k in now}
        if vm.level is Level.ONE and not vm.self_raised:
            mean = {k: value for k, value in mean.items() if k not in CLOSER}
        covered_s = float(len(vm.window))
        vm.window.clear()
        upper = self.history.brief(vm.uuid, BRIEF).upper
        over = frozenset(k for k, limit in upper.items() if mean.get(k, 0.0) > limit)
        if any(mean[k] >= 2 * upper[k] for k in over) or over & vm.over:
            vm.self_raised = True
        vm.over = over
        vm.seq += 1
        level = 2 if vm.self_raised or vm.level is Level.TWO else 1
        vm.report = Report(
            seq=vm.seq, boot="00000001", level=level, why=min(over, default=""), over=tuple(sorted(over)),
            interval_s=covered_s, signals=mean, missing=(), agent_version="0.1.0", agent_rss_kb=9000,
            agent_cpu_s=1.0, agent_up_s=60.0, near_max=0, near_max_of=12,
            destinations=vm.destinations if level == 2 else (),
        )  # fmt: skip
        vm.report_s = self.now_s
        return True

    def _view(self, vm: SimVm, hrem: dict[str, float], fresh: bool) -> VmView:
        age_s = None if vm.report_s is None else self.now_s - vm.report_s
        interval_s = 1.0 if vm.self_raised or vm.level is Level.TWO else 5.0
        agent = AgentState.ALIVE
        if age_s is None:
            agent = AgentState.ABSENT
        elif age_s > 3 * interval_s and not fresh:
            agent = AgentState.SILENT
        return VmView(
            uuid=vm.uuid, domid=vm.domid, name=vm.name, vm_type=vm.vm_type, vcpus=vm.vcpus,
            known_s=self.now_s - vm.born_s, paused=vm.paused,
            hrem=vm.base_hrem if vm.vm_type is VmType.DOM0 else hrem,
            agent=agent, report=vm.report, report_is_new=fresh, report_age_s=age_s, answer=vm.answer,
            held=frozenset(vm.limits) | vm.by_operator,
            passed_s=0.0 if vm.report is None else vm.report.interval_s,
        )  # fmt: skip


def _add(signals_of: dict[str, float], way: str, kind: str | None, pps: float, bits: float) -> None:
    signals_of[f"{way}_pps"] += pps
    signals_of[f"{way}_bps"] += pps * bits
    if kind is not None:
        name = f"{way}_{kind}_pps"
        signals_of[name] = signals_of.get(name, 0.0) + pps
