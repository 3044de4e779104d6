# SPDX-License-Identifier: LGPL-2.1-or-later
"""HSEM: from a snapshot of all VMs to actions. It alone decides who is attacker, victim or neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import HREM, SIGNALS, names
from xenwarden_host.hsem import state
from xenwarden_host.hsem.detectors.joins import Joins
from xenwarden_host.hsem.habit import LEAST, Habit
from xenwarden_host.hsem.machine import Machine
from xenwarden_host.hsem.masks import STARVING, masked
from xenwarden_host.hsem.neighbourhood import Host
from xenwarden_host.hsem.rules import RuleSet, compile_rules, fires
from xenwarden_host.hsem.sight import Sight
from xenwarden_host.hsem.state import Vm
from xenwarden_host.hsem.traffic import by_headers
from xenwarden_host.hsem.turn import Turn
from xenwarden_host.records import (
    Action,
    AgentState,
    Level,
    LimitKind,
    OrderLevel,
    SetLimit,
    VmState,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hrem.history import History
    from xenwarden_host.hsem.detectors import Detector
    from xenwarden_host.policy.model import Policy, VmPolicy
    from xenwarden_host.records import Snapshot, VmView

_NOTHING: frozenset[str] = frozenset()
_NEXT_DOOR = frozenset((Joins.gate,))
_NO_SIGNALS: dict[str, float] = {}
_EXPIRE_EVERY_S = 3600.0
_FADE = 0.8  # of what was before, at each ordinary report: some reports back is forgotten


class Hsem:
    """The decision core. Same snapshots, policy and history: same actions, in the same order."""

    def __init__(self, policy: Policy, history: History) -> None:
        self._history = history
        self._vms: dict[str, Vm] = {}
        self._masks: dict[str, frozenset[str]] = {}
        self._restored = False
        self._last_s = 0.0
        self._expired_s = float("-inf")
        self.policy = policy

    @property
    def policy(self) -> Policy:
        """The policy in force; setting another one lets cases that are open go on by it."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._history.set_policy(policy)
        rules = compile_rules(policy.rules)
        self._machine = Machine(policy, self._history, rules)
        self._rules = RuleSet(rules)
        self._tick_rules = RuleSet(rule for rule in rules if not rule.by_report)
        # What an agent claims is judged when it has said something.
        self._headers_rules = RuleSet(rule for rule in rules if not rule.spec.distrust)
        self._habitual = [
            (key, key.signal, SIGNALS[key.signal][0] == HREM, LEAST[SIGNALS[key.signal][1]])
            for key in sorted({key for rule in rules for key in rule.habitual})
        ]
        self._habitual_of_dom0 = [item for item in self._habitual if item[2]]
        self._remembered = {signal for rule in rules for signal in rule.remembers}
        self._shapes: dict[str, list[list[Detector]]] = {}
        for signal, shape in (item for rule in rules for item in rule.shapes):
            self._shapes.setdefault(signal, []).append(shape)
        self._counted = tuple(signal for signal in names(HREM) if self._history.reads(signal))
        for vm in self._vms.values():
            vm.refused.clear()
        self._policies: dict[str, tuple[str, VmPolicy]] = {}  # by UUID: the name it was for

    def decide(self, snapshot: Snapshot) -> list[Action]:
        """Return what to do after this tick, in order."""
        now_s = snapshot.now_s
        self._history.set_time(snapshot.unix_s)
        if self._restored:
            self._take_up(now_s)
        views = {view.uuid: view for view in snapshot.vms}
        actions: list[Action] = []
        for view in snapshot.vms:
            self._prepare(view, now_s, actions)
        host = Host(views, self._vms, self._policy.neighbours, self._history.upper, self._masked_of)
        for view in snapshot.vms:
            vm = self._vms[view.uuid]
            if _says_nothing(vm, view):
                continue
            masks = self._masks[view.uuid]
            trusted = self._trusts(vm, view)
            sight = self._sight(vm, view, masks, host, now_s, trusted=trusted)
            self._learn(vm, sight, now_s)
            if not view.paused:
                self._observe_habits(vm, view, masks)
                turn = Turn(vm, view, sight, trusted, self._policy_of(view), snapshot)
                rules = self._headers_rules if sight.seen else self._tick_rules
                actions += self._machine.step(turn, self._rules if turn.fresh else rules)
        self._drop_gone(views, now_s)
        if now_s - self._expired_s >= _EXPIRE_EVERY_S:
            self._expired_s = now_s
            self._history.expire(views, now_s)
        self._last_s = now_s
        return actions

    def state(self, uuid: str) -> VmState:
        """Return the VM's state; NORMAL for one that HSEM does not know."""
        vm = self._vms.get(uuid)
        return VmState.NORMAL if vm is None else vm.state

    def release(self, uuid: str, who: str) -> list[Action]:
        """Return what an operator's release does: back to normal, and let alone for a while.

        `who` is in the reason. What is still unusual after policy's `operator_cooldown_s` raises the VM anew.
        """
        vm = self._vms.get(uuid)
        if vm is None:
            return []
        vm.leave_until_s = self._last_s + self._policy.release.operator_cooldown_s
        if vm.state is VmState.NORMAL:
            return []
        return self._machine.close(vm, None, f"released by {who}", (), self._last_s)

    def score(self, uuid: str, signals: Mapping[str, float]) -> tuple[float, str]:
        """Return how unusual the VM's signals of the last tick were, and which is most so.

        In times its usual upper limit, or, of a signal that has a habit, in times what would be unlike
        itself: above 1 it is unusual. 0 and "" where nothing is known to compare with.
        """
        masks, upper = self._masked_of(uuid), self._history.uppers(uuid)
        scores = [
            (value / upper[name], name)
            for name, value in signals.items()
            if name in upper and name not in masks
        ]
        vm = self._vms.get(uuid)
        if vm is not None:
            scores += [
                (habit.score(), key.signal) for key, habit in vm.habits.items() if key.signal in signals
            ]
        return max(scores, default=(0.0, ""))

    def ordered_level(self, uuid: str) -> Level | None:
        """Return the level that an operator ordered, ONE where nobody did; None: a VM not seen yet."""
        vm = self._vms.get(uuid)
        return None if vm is None else vm.forced

    def order_level(self, uuid: str, level: Level, who: str) -> list[Action]:
        """Return what an operator's order does: the VM's agent works at no lower level from now on."""
        vm = self._vms.get(uuid)
        if vm is None:
            return []
        vm.forced = level
        if vm.state is not VmState.NORMAL or vm.level is level:
            return []
        vm.level = level
        return [OrderLevel(uuid, level, f"ordered by {who}")]

    def forget(self, uuid: str) -> None:
        """Drop what is known of a VM that is NORMAL: its next tick is its first."""
        self._vms.pop(uuid, None)
        self._masks.pop(uuid, None)
        self._policies.pop(uuid, None)  # its profile is given to the new history

    # --- state that outlives the daemon ---------------------------------------------------------------

    def dump(self) -> dict[str, dict[str, Any]]:
        """Return the state of all VMs that is more than a new VM's, as plain data for JSON."""
        return {
            uuid: state.dump(vm, self._last_s)
            for uuid, vm in self._vms.items()
            if vm.state is not VmState.NORMAL
            or vm.released_s is not None
            or vm.leave_until_s > self._last_s
            or vm.forced is not Level.ONE
        }

    def restore(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Take back what `dump` gave: the next `decide` says levels and limits again. Once, at the start.

        Raises:
            ValueError: the data is no such dump; then nothing is taken.
        """
        taken = {uuid: state.restore(uuid, kept, 0.0) for uuid, kept in data.items()}
        self._vms.update(taken)
        self._restored = True
        for uuid, vm in taken.items():
            self._history.freeze(uuid, frozen=vm.state is not VmState.NORMAL)

    def _take_up(self, now_s: float) -> None:
        """Go on where the dump ended: the time without a daemon does not count."""
        self._restored = False
        for vm in self._vms.values():
            state.shift(vm, now_s)
            vm.seen_s = now_s
            if vm.released_s is not None:
                vm.released_s += now_s
            if vm.leave_until_s:
                vm.leave_until_s += now_s

    # --- one tick -----------------------------------------------------------------------------------

    def _policy_of(self, view: VmView) -> VmPolicy:
        """Return what policy says of the VM; by its profile it is judged from the first tick on."""
        name, policy = self._policies.get(view.uuid, (None, None))
        if policy is None or name != view.name:
            policy = self._policy.vm(view.uuid, view.name)
            self._policies[view.uuid] = (view.name, policy)
            self._history.profile(view.uuid, policy.profile)
        return policy

    def _masked_of(self, uuid: str) -> frozenset[str]:
        return self._masks.get(uuid, _NOTHING)

    def _prepare(self, view: VmView, now_s: float, actions: list[Action]) -> None:
        """Bring what HSEM keeps of the VM up to this tick, and say again what a new domain must be told."""
        vm = self._vms.get(view.uuid)
        if vm is None:
            vm = self._vms[view.uuid] = Vm(view.uuid, view.domid, counted_since_s=now_s, seen_s=now_s)
        if view.paused or vm.domid != view.domid:  # it did not run, or was not there
            state.shift(vm, now_s - vm.seen_s)
        vm.seen_s = now_s
        if vm.domid != view.domid or vm.tell:
            vm.tell = False
            vm.domid = view.domid
            actions += _said_again(vm)
        vm.traffic.add(now_s, view.hrem)
        self._note_spans(vm, view, now_s)
        self._masks[view.uuid] = self._masks_now(vm, view, now_s)

    def _note_spans(self, vm: Vm, view: VmView, now_s: float) -> None:
        """Note how much time what is new in this tick covers."""
        report = view.report
        if view.report_is_new and report is not None:
            vm.covered_s = report.interval_s
        if view.hrem:
            vm.counted_s = 0.0 if vm.measured_s is None else now_s - vm.measured_s
            vm.measured_s = now_s

    def _masks_now(self, vm: Vm, view: VmView, now_s: float) -> frozenset[str]:
        if not view.held and not vm.masked_until:
            return _NOTHING
        # A packet limit of which dom0 knows that it drops nothing changes nothing that anyone sees.
        idle = view.hrem.get("vif_police_drop_pps") == 0.0
        for key in view.held:
            if not (idle and key.kind is LimitKind.VIF_PPS):
                vm.masked_until[key] = now_s + self._policy.levels.level1_s
        for key in [key for key, until_s in vm.masked_until.items() if until_s <= now_s]:
            del vm.masked_until[key]
        return masked(vm.masked_until)

    def _sight(
        self, vm: Vm, view: VmView, masks: frozenset[str], host: Host, now_s: float, *, trusted: bool
    ) -> Sight:
        report = view.report
        said = report.signals if view.report_is_new and report is not None else _NO_SIGNALS
        # What dom0 saw itself stands above what the agent says of the same. An agent that is believed sets
        # the pace, though: else what both see would count twice.
        seen = by_headers(view.hrem) if said or not trusted else _NO_SIGNALS
        signals = {**said, **view.hrem, **seen} if said or seen else view.hrem
        over = self._history.over(view.uuid, signals)
        return Sight(
            vm=view,
            now_s=now_s,
            signals=signals,
            said=said,
            seen=seen.keys(),
            trusted=trusted,
            span_s=self._policy.levels.level2_s if seen else report.interval_s if report is not None else 0.0,
            over=over | _NEXT_DOOR if host.complaints else over,
            upper=self._history.uppers(view.uuid).get,
            before=vm.before,
            habits=vm.habits,
            enough=self._policy.history,
            masked=masks,
            traffic=vm.traffic,
            limits={key: value for key, value in vm.limits.items() if key in view.held} if vm.limits else {},
            starved=bool(vm.masked_until) and any(key.kind in STARVING for key in vm.masked_until),
            settled=view.known_s >= self._policy.agent.settle_s,
            agent_may_be_late=self._may_be_late(view),
            host=host,
            refused=vm.refused,
        )

    def _trusts(self, vm: Vm, view: VmView) -> bool:
        speaks = view.agent is AgentState.ALIVE or (
            view.agent is AgentState.SILENT and self._may_be_late(view)
        )
        return speaks and not vm.distrusted

    def _may_be_late(self, view: VmView) -> bool:
        return view.report_age_s is not None and view.report_age_s < self._policy.agent.patience_s

    def _learn(self, vm: Vm, sight: Sight, now_s: float) -> None:
        """Learn what a VM does in its ordinary life; History itself knows whose learning is frozen."""
        view, masks = sight.vm, sight.masked
        # What was found to be neither may become usual.
        unusual = vm.streaks and vm.streaks.keys() - vm.settled.keys()
        if vm.state is not VmState.NORMAL or view.paused or unusual:
            vm.counted.clear()
            return
        if view.report is not None and view.report_is_new and sight.trusted:
            signals = view.report.signals
            if masks:
                signals = {name: value for name, value in signals.items() if name not in masks}
            learnt, unlearnt = signals, self._unlearnt(sight)
            if unlearnt:
                learnt = {name: value for name, value in signals.items() if name not in unlearnt}
            self._history.learn(view.uuid, learnt, vm.covered_s, now_s)
            before = vm.before
            for name in self._remembered & signals.keys():
                value = signals[name]
                before[name] = value + _FADE * (before.get(name, value) - value)
        counted, hrem = vm.counted, view.hrem
        for name in self._counted:
            if name in hrem and hrem[name] > counted.get(name, -1.0) and name not in masks:
                counted[name] = hrem[name]
        span_s = now_s - vm.counted_since_s
        if span_s >= self._policy.history.interval_s:
            self._history.learn(view.uuid, counted, span_s, now_s)
            vm.counted_since_s = now_s
            counted.clear()

    def _unlearnt(self, sight: Sight) -> list[str]:
        """Return signals that look as in an attack, and that would raise what is usual above the prior.

        Else who attacks a little, and a little more each day, makes it usual.
        """
        margin, priors = self._policy.history.margin, self._history.priors(sight.vm.uuid)
        return [
            name
            for name, shapes in self._shapes.items()
            if name in priors
            and sight.said.get(name, 0.0) * margin > priors[name]
            and any(fires(shape, sight) for shape in shapes)
        ]

    def _observe_habits(self, vm: Vm, view: VmView, masks: frozenset[str]) -> None:
        """Take what the VM is like, by its reports and dom0's counters."""
        report = view.report if view.report_is_new else None
        said = report.signals if report is not None else _NO_SIGNALS
        for key, signal, by_dom0, least in self._habitual if report is not None else self._habitual_of_dom0:
            signals = view.hrem if by_dom0 else said
            if signal not in signals or signal in masks:
                continue
            habit = vm.habits.get(key)
            if habit is None:
                habit = vm.habits[key] = Habit(key, least)
            covered_s, passed_s = (vm.counted_s, 0.0) if by_dom0 else (vm.covered_s, view.passed_s)
            if habit.take(signals[signal], covered_s, passed_s, self._policy.history):
                (vm.strange.add if habit.strange else vm.strange.discard)(key)

    def _drop_gone(self, views: Mapping[str, VmView], now_s: float) -> None:
        """Forget VMs that are gone; one of which anything was found only after a while: it may reboot."""
        for uuid in [uuid for uuid in self._vms if uuid not in views]:
            vm = self._vms[uuid]
            known = vm.streaks or vm.past or vm.settled or vm.released_s is not None
            plain = vm.state is VmState.NORMAL and not known and vm.leave_until_s <= now_s
            if plain or now_s - vm.seen_s > self._policy.release.repeat_s:
                del self._vms[uuid]
            self._masks.pop(uuid, None)


def _says_nothing(vm: Vm, view: VmView) -> bool:
    """Tell whether nothing was measured of the VM in this tick, and nothing was to be expected."""
    return (
        not view.hrem
        and not view.report_is_new
        and vm.state is VmState.NORMAL
        and view.agent is AgentState.ALIVE
    )


def _said_again(vm: Vm) -> list[Action]:
    out: list[Action] = []
    if vm.level is not Level.ONE:
        out.append(OrderLevel(vm.uuid, vm.level, f"is {vm.state}"))
    provisional = vm.state is VmState.WATCHED
    for key, value in vm.limits.items():
        out.append(SetLimit(vm.uuid, key, value, provisional, f"is {vm.state}"))
    return out
