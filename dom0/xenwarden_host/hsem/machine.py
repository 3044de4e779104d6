# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state machine of one VM: normal, watched; then contained, protected, or normal again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xenwarden_channel.signals import HREM, VREM
from xenwarden_host.hsem.limiter import Limiter
from xenwarden_host.hsem.sight import amount
from xenwarden_host.hsem.state import Case, Finding, Settled, Streak
from xenwarden_host.hsem.turn import Fired, case_of, sentence
from xenwarden_host.policy.model import RuleKind
from xenwarden_host.records import (
    Action,
    Alert,
    Ask,
    Evidence,
    Level,
    OrderLevel,
    Transition,
    Verdict,
    VmState,
    VmType,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xenwarden_host.hrem.history import History
    from xenwarden_host.hsem.rules import Outcome, Rule, RuleSet
    from xenwarden_host.hsem.state import Vm
    from xenwarden_host.hsem.turn import Turn
    from xenwarden_host.policy.model import Policy


_ALONE_TIMES = 4  # a cool-down is so many times as long as the one before
_MOST_TIMES = 5  # so often: from minutes to days


class Machine:
    """All states' steps. Nothing is kept here: a VM's state is in its `Vm`."""

    def __init__(self, policy: Policy, history: History, rules: tuple[Rule, ...]) -> None:
        self._policy = policy
        self._history = history
        self._rules = rules
        self._limiter = Limiter(policy, history)

    def step(self, turn: Turn, asked: RuleSet) -> list[Action]:
        """Return what follows from one VM's tick; `asked` are those rules that may be asked in this tick."""
        out: list[Action] = []
        if turn.policy.exempt and turn.vm.state is not VmState.NORMAL:
            # An admin's new word: whoever has no limits any more is no longer held for contained either.
            return self.close(turn.vm, None, "the policy exempts it now", (), turn.sight.now_s)
        rules = asked.all[turn.trusted]
        fired = [item for item in self._fired(turn, asked) if not self._alerted(turn, item, out)]
        match turn.vm.state:
            case VmState.NORMAL:
                self._normal(turn, fired, out)
            case VmState.WATCHED:
                self._watched(turn, fired, rules, out)
            case VmState.CONTAINED:
                self._contained(turn, fired, rules, out)
            case VmState.PROTECTED:
                self._protected(turn, fired, out)
        return out

    def close(
        self, vm: Vm, verdict: Verdict | None, why: str, evidence: tuple[Evidence, ...], now_s: float
    ) -> list[Action]:
        """Return what brings the VM back to normal: all limits lifted, level 1, learning goes on."""
        if vm.state is VmState.CONTAINED:
            vm.released_s = now_s
        out = self._limiter.set(vm, {}, why, provisional=False)
        out += _order(vm, vm.forced, why)
        out.append(Transition(vm.uuid, vm.state, VmState.NORMAL, verdict, vm.also_victim, why, evidence))
        vm.state = VmState.NORMAL
        vm.case = None
        vm.also_victim = False
        vm.calm_since_s = None
        vm.streaks.clear()
        self._history.freeze(vm.uuid, frozen=False)
        return out

    # --- rules ----------------------------------------------------------------------------------

    def _fired(self, turn: Turn, asked: RuleSet) -> Iterator[Fired]:
        """Yield the rules that fire now, and whether that is enough to raise (hysteresis)."""
        vm, now_s, detect = turn.vm, turn.sight.now_s, self._policy.detect
        over = turn.sight.over
        nothing_stands = vm.case is None and not (vm.streaks or vm.told or vm.distrusted)
        # Asked of all VMs at each tick, and nearly always answered so.
        nothing_unusual = nothing_stands and not (over or turn.view.overflows or vm.strange)
        if vm.streaks:
            # What they began to see before the agent spoke would stand for ever, and keep the VM unlearnt.
            for name in asked.unheard[turn.trusted]:
                vm.streaks.pop(name, None)
        for rule in (asked.plain if nothing_unusual else asked.all)[turn.trusted]:
            if nothing_stands and rule.gate is not None and rule.gate.isdisjoint(over):
                continue
            spec = rule.spec
            latch = None if vm.case is None else vm.case.raise_latches.setdefault(spec.name, {})
            if latch is None and (
                not turn.view.overflows
                if rule.needs_overflow
                else rule.gate is not None and rule.gate.isdisjoint(over)
            ):
                outcome = None
            else:
                outcome = rule.raises(turn.sight, latch)
            if outcome is None:
                stands = spec.name in vm.streaks or spec.name in vm.told or (spec.distrust and vm.distrusted)
                if stands and not rule.has_nothing(turn.sight):
                    vm.streaks.pop(spec.name, None)
                    if not rule.is_blind(turn.sight):
                        vm.told.discard(spec.name)
                        if spec.distrust:
                            vm.distrusted = False
                continue
            streak = vm.streaks.setdefault(spec.name, Streak(now_s, 0))
            streak.count += self._worth(_span_s(turn, rule))
            strong = outcome.strength is not None and outcome.strength >= detect.at_once
            enough = (strong or streak.count >= detect.running) and now_s - streak.since_s >= spec.for_s
            if enough and spec.distrust:
                vm.distrusted = True
            yield Fired(rule, outcome, enough)

    def _worth(self, span_s: float) -> int:
        """Return how many observations of level 1 one is worth that covers so long."""
        return max(1, int(span_s // self._policy.levels.level1_s))

    def _alerted(self, turn: Turn, item: Fired, out: list[Action]) -> bool:
        """Tell an admin where that is all that may be done; return whether it is."""
        rule, outcome, enough = item
        of_admin = turn.view.vm_type is VmType.DOM0 or turn.view.service or turn.policy.exempt
        if rule.spec.kind is not RuleKind.ALERT and not of_admin:
            return False
        vm, now_s, name = turn.vm, turn.sight.now_s, rule.spec.name
        if rule.spec.alone and vm.told:
            return True
        if enough:
            vm.told.add(name)
        # One that comes and goes is told no more often than one that stays.
        told_s = vm.reminded.get(name)
        if enough and (told_s is None or now_s - told_s >= self._policy.agent.remind_s):
            vm.reminded[name] = now_s
            out.append(
                Alert(vm.uuid, name, f"{turn.view.name}: {sentence(outcome.evidence)}", outcome.evidence)
            )
        return True

    # --- states -----------------------------------------------------------------------------------

    def _normal(self, turn: Turn, fired: list[Fired], out: list[Action]) -> None:
        if turn.sight.now_s < turn.vm.leave_until_s:
            return
        raising = [
            (rule, outcome)
            for rule, outcome, enough in fired
            if enough and not self._is_settled(turn, rule, outcome)
        ]
        if raising:
            self._open(turn, raising, out)

    def _is_settled(self, turn: Turn, rule: Rule, outcome: Outcome) -> bool:
        """Tell whether just this was found to be neither a short while ago, and looks so still."""
        settled = turn.vm.settled.get(rule.spec.name)
        return (
            settled is not None
            and turn.sight.now_s < settled.until_s
            and self._is_its_way(turn, rule, outcome)
        )

    def _is_its_way(self, turn: Turn, rule: Rule, outcome: Outcome) -> bool:
        """Tell whether just this was ever found to be neither, is no stronger now, and no attack's way."""
        vm = turn.vm
        settled = vm.settled.get(rule.spec.name)
        if settled is None:
            return False
        if (outcome.strength or 0.0) >= settled.strength * self._policy.watch.again_times > 0:
            return False
        # What a limit hides stands as it was seen before the limit.
        latch = {} if vm.case is None else vm.case.convict_latches.setdefault(rule.spec.name, {})
        return rule.convicts(turn.sight, latch) is None

    def _open(self, turn: Turn, raising: list[tuple[Rule, Outcome]], out: list[Action]) -> None:
        """Put the VM under watch."""
        vm, now_s = turn.vm, turn.sight.now_s
        old, vm.state = vm.state, VmState.WATCHED
        # Above all ids of an earlier daemon, whose questions the agent may have answered.
        case = vm.case = Case(now_s, int(turn.snapshot.unix_s), now_s)
        span_s = max(_span_s(turn, rule) for rule, _outcome in raising)
        case.lead_s = max(0.0, span_s - self._policy.levels.level1_s)
        case.observations = self._worth(case.lead_s + self._policy.levels.level1_s) - 1
        vm.since_s = now_s
        vm.calm_since_s = None
        self._history.freeze(vm.uuid, frozen=True)
        evidence = tuple(item for _rule, outcome in raising for item in outcome.evidence)
        out.append(Transition(vm.uuid, old, vm.state, None, False, sentence(evidence), evidence))
        out += _order(vm, Level.TWO, sentence(evidence))
        for rule, outcome in sorted(raising, key=lambda item: item[0].spec.alone):
            if not (rule.spec.alone and case.limiting(rule.spec.kind)):
                self._add(turn, rule, outcome)
        # What every rule sees before the first limit: afterwards a limit may hide it. Of an agent that has
        # said nothing new in this tick, what it said last.
        sight, report = turn.sight, turn.view.report
        if not turn.fresh and turn.trusted and report is not None:
            sight = replace(sight, signals={**report.signals, **sight.signals})
        for rule in self._rules:
            if turn.hears(rule):
                rule.convicts(sight, case.convict_latches.setdefault(rule.spec.name, {}))
        self._look(turn, [rule for rule, _outcome in raising])
        if case.lead_s:
            self._judge(turn, out)
        if vm.case is case and vm.state is VmState.WATCHED:
            out += self._limiter.provisional(turn)
            out.append(Ask(vm.uuid, case.ask_id))

    def _watched(self, turn: Turn, fired: list[Fired], rules: Iterable[Rule], out: list[Action]) -> None:
        vm, view = turn.vm, turn.view
        case = case_of(vm)
        if turn.fresh or (not turn.trusted and view.hrem):
            case.observations += self._worth(vm.covered_s if turn.fresh else vm.counted_s)
            case.looked = True
        case.offered_pps = max(case.offered_pps, view.hrem.get("vif_tx_pps", 0.0))
        if view.answer is not None and view.answer.ask_id == case.ask_id:
            case.answer = view.answer
        self._note(turn, fired)
        out += self._limiter.provisional(turn)
        self._look(turn, rules)
        self._judge(turn, out)

    def _contained(self, turn: Turn, fired: list[Fired], rules: Iterable[Rule], out: list[Action]) -> None:
        vm, now_s = turn.vm, turn.sight.now_s
        case = case_of(vm)
        out += self._relax(turn)
        self._note(turn, fired)
        self._look(turn, rules)
        wanted = self._limiter.contained(turn, case.of(RuleKind.ORIGINATED, convicted=True))
        more = {key: value for key, value in wanted.items() if value < vm.limits.get(key, value + 1)}
        if more:
            out += self._limiter.set(
                vm, {**vm.limits, **more}, "does more than it is contained for", provisional=False
            )
        suffering = case.of(RuleKind.INBOUND, convicted=True)
        if suffering and not vm.also_victim:
            vm.also_victim = True
            evidence = tuple(item for finding in suffering for item in finding.evidence)
            why = f"it is a victim too: {sentence(evidence)}"
            out.append(Transition(vm.uuid, vm.state, vm.state, Verdict.ATTACKER, True, why, evidence))
        if self._limiter.still_pressed(turn) or any(
            rule.spec.kind is RuleKind.ORIGINATED
            and turn.hears(rule)
            and (tried := rule.tries(turn.sight)) is not None
            and not self._is_its_way(turn, rule, tried)
            for rule in rules
        ):
            vm.calm_since_s = None
        elif _informed(turn) and vm.calm_since_s is None:
            vm.calm_since_s = now_s
        if vm.calm_since_s is not None and now_s - vm.calm_since_s >= vm.probation_s:
            why = f"calm for {vm.probation_s:.0f} s, by what it still tries to send or use"
            out += self.close(vm, None, why, (), now_s)

    def _protected(self, turn: Turn, fired: list[Fired], out: list[Action]) -> None:
        vm, now_s = turn.vm, turn.sight.now_s
        out += self._relax(turn)
        originated = [
            (rule, outcome)
            for rule, outcome, enough in fired
            if enough and rule.spec.kind is RuleKind.ORIGINATED
        ]
        if originated:
            self._open(turn, originated, out)
        elif any(
            rule.by_report and not self._is_its_way(turn, rule, outcome) for rule, outcome, _enough in fired
        ) or any(not flow.ended for flow in turn.sight.host.flooders(vm.uuid)):
            vm.calm_since_s = None
        elif _informed(turn) and vm.calm_since_s is None:
            vm.calm_since_s = now_s
        elif vm.calm_since_s is not None and now_s - vm.calm_since_s >= self._policy.release.probation_s:
            why = f"nothing unusual has reached it for {self._policy.release.probation_s:.0f} s"
            out += self.close(vm, None, why, (), now_s)

    def _relax(self, turn: Turn) -> list[Action]:
        """Let the agent go back to level 1 some time after the verdict: its VM pays for level 2."""
        vm = turn.vm
        if turn.sight.now_s - vm.since_s < self._policy.levels.level2_max_s:
            return []
        return _order(vm, Level.ONE, f"{vm.state} for {self._policy.levels.level2_max_s:.0f} s")

    # --- a case -----------------------------------------------------------------------------------

    def _note(self, turn: Turn, fired: list[Fired]) -> None:
        """Take what fired into the case: what is known by then at once, what is new once it is enough."""
        vm = turn.vm
        case = case_of(vm)
        for rule, outcome, enough in fired:
            finding = case.findings.get(rule.spec.name)
            if finding is not None:
                finding.last_s = case.unusual_s = turn.sight.now_s
                finding.strength = max(finding.strength, outcome.strength or 0.0)
            elif enough and not (rule.spec.alone and case.limiting(rule.spec.kind)):
                self._add(turn, rule, outcome)

    def _add(self, turn: Turn, rule: Rule, outcome: Outcome) -> None:
        vm, now_s, spec = turn.vm, turn.sight.now_s, rule.spec
        case = case_of(vm)
        if not spec.alone:
            # What a last resort found was this: its limits, on all that it might have been, go.
            for name in [
                name for name, item in case.findings.items() if item.alone and item.kind is spec.kind
            ]:
                del case.findings[name]
        at_s, hits = vm.past.pop(spec.name, (now_s, 0))
        if now_s - at_s > self._policy.watch.memory_s:
            hits = 0
        case.unusual_s = now_s
        case.findings[spec.name] = Finding(
            kind=spec.kind,
            limits=spec.limits,
            needs=spec.hits,
            alone=spec.alone,
            stop=spec.stop,
            last_s=now_s,
            evidence=outcome.evidence,
            hits=hits,
            strength=outcome.strength or 0.0,
        )

    def _look(self, turn: Turn, rules: Iterable[Rule]) -> None:
        """Ask for proof of what was found, and remember who floods this VM."""
        case = case_of(turn.vm)
        for rule in rules:
            finding = case.findings.get(rule.spec.name)
            if finding is None or not turn.hears(rule):
                continue
            latch = case.convict_latches.setdefault(rule.spec.name, {})
            outcome = rule.convicts(turn.sight, latch)
            if outcome is not None:
                known = finding.convicts
                finding.hits += self._worth(_span_s(turn, rule))
                finding.last_s = case.unusual_s = turn.sight.now_s
                if not known or (outcome.strength or 0.0) >= finding.strength:
                    finding.evidence = outcome.evidence
                finding.strength = max(finding.strength, outcome.strength or 0.0)
        for flow in turn.sight.host.flooders(turn.vm.uuid):
            case.flooders[flow.uuid] = flow
        if case.part is None:
            case.part = turn.sight.host.part(turn.vm.uuid)

    def _judge(self, turn: Turn, out: list[Action]) -> None:
        """Decide, where it is time."""
        vm, now_s, watch = turn.vm, turn.sight.now_s, self._policy.watch
        case = case_of(vm)
        age_s = now_s - case.opened_s
        seen_s = age_s + case.lead_s
        heard = case.answer is not None or seen_s >= watch.answer_wait_s
        ready = heard and seen_s >= watch.min_s and case.observations >= watch.min_observations
        # An agent that stays at level 1 needs that long for as many reports. Time alone decides nothing,
        # where what is seen of the VM comes less often.
        overdue = age_s >= max(watch.max_s, watch.min_observations * self._policy.levels.level1_s) and (
            case.looked or not turn.trusted
        )
        if not ready and not overdue:
            return
        guilty = case.of(RuleKind.ORIGINATED, convicted=True)
        suffering = case.of(RuleKind.INBOUND, convicted=True)
        calm = now_s - case.unusual_s >= watch.calm_s
        suspected = [item for item in case.of(RuleKind.ORIGINATED) if now_s - item.last_s < watch.calm_s]
        if guilty:
            self._contain(turn, guilty, bool(suffering), out)
        elif suffering and (overdue or not suspected):
            self._protect(turn, suffering, out)
        elif overdue:
            if suspected and watch.undecided is Verdict.ATTACKER:
                self._contain(turn, suspected, also_victim=False, out=out)
            else:
                self._acquit(turn, "not enough speaks against it", out)
        elif any(not flow.convicted for flow in case.flooders.values()):
            pass  # whether it is a victim hangs on the verdict over another
        elif calm:
            self._acquit(turn, "it is over, and proves nothing", out)
        elif seen_s >= watch.acquit_s and not any(item.hits for item in case.findings.values()):
            self._acquit(turn, "it goes on, but nothing of it is an attack's way", out)

    def _contain(self, turn: Turn, guilty: list[Finding], also_victim: bool, out: list[Action]) -> None:
        vm, now_s, release = turn.vm, turn.sight.now_s, self._policy.release
        again = vm.released_s is not None and now_s - vm.released_s < release.repeat_s
        vm.probation_s = (
            min(vm.probation_s * release.repeat_times, release.probation_max_s)
            if again
            else release.probation_s
        )
        old, vm.state, vm.also_victim, vm.calm_since_s = vm.state, VmState.CONTAINED, also_victim, None
        vm.since_s = now_s
        evidence = (*(item for finding in guilty for item in finding.evidence), self._reliability(turn))
        why = sentence(guilty[0].evidence)
        out.append(Transition(vm.uuid, old, vm.state, Verdict.ATTACKER, also_victim, why, evidence))
        wanted = self._limiter.contained(turn, guilty)
        out += self._limiter.set(vm, wanted, f"attacker: {why}", provisional=False)

    def _protect(self, turn: Turn, suffering: list[Finding], out: list[Action]) -> None:
        vm = turn.vm
        old, vm.state, vm.calm_since_s = vm.state, VmState.PROTECTED, None
        vm.since_s = turn.sight.now_s
        evidence = (*(item for finding in suffering for item in finding.evidence), self._reliability(turn))
        why = sentence(suffering[0].evidence)
        out += self._limiter.set(vm, {}, "it is a victim", provisional=False)
        out.append(Transition(vm.uuid, old, vm.state, Verdict.VICTIM, False, why, evidence))

    def _acquit(self, turn: Turn, why: str, out: list[Action]) -> None:
        vm, now_s, watch = turn.vm, turn.sight.now_s, self._policy.watch
        case = case_of(vm)
        evidence: list[Evidence] = []
        for rule, finding in case.findings.items():
            evidence += finding.evidence
            # What still goes on, or what our own limit may hide, is let alone for a while; what
            # stopped is not: else an attack in short bursts would be free after the first.
            hidden = any(item.signal in turn.sight.masked for item in finding.evidence)
            if now_s - finding.last_s < watch.calm_s or hidden:
                # At least until it is seen again: reports may be further apart than that.
                alone_s, times, strength = max(watch.cooldown_s, 2 * vm.covered_s), 0, finding.strength
                before = vm.settled.get(rule)
                # Found so again before as long has passed: it is the VM's way, and let alone for longer.
                if before is not None and now_s - before.until_s < max(before.alone_s, watch.memory_s):
                    times, strength = before.times + 1, max(strength, before.strength)
                    alone_s = max(watch.cooldown_s * _ALONE_TIMES ** min(times, _MOST_TIMES), alone_s)
                vm.settled[rule] = Settled(now_s + alone_s, alone_s, strength, times)
            elif finding.hits:
                vm.past[rule] = (now_s, finding.hits)
        out += self.close(vm, Verdict.NEITHER, why, (*evidence, self._reliability(turn)), now_s)

    def _reliability(self, turn: Turn) -> Evidence:
        """Return VREM's answer as evidence, or the name of its silence."""
        near_pct = self._policy.history.near_capacity_pct
        answer = case_of(turn.vm).answer
        if answer is not None:
            text = (
                f"asked how it runs, it said: load {amount(answer.load_pct)} %, close to its maximum in "
                f"{answer.near_max} of {answer.near_max_of} intervals"
            )
            return Evidence("load_pct", answer.load_pct, near_pct, "%", VREM, "reliability", text)
        near, of = self._history.near_capacity(turn.vm.uuid)
        said = "asked how it runs, it did not answer" if turn.trusted else "no agent to ask how it runs"
        text = f"{said}; dom0 saw it close to its maximum CPU in {near} of {of} intervals"
        cpu_pct = turn.view.hrem.get("vcpu_pct", 0.0)
        return Evidence("vcpu_pct", cpu_pct, near_pct, "%", HREM, "reliability", text)


def _order(vm: Vm, level: Level, why: str) -> list[Action]:
    level = max(level, vm.forced)
    if vm.level is level:
        return []
    vm.level = level
    return [OrderLevel(vm.uuid, level, why)]


def _informed(turn: Turn) -> bool:
    """Tell whether enough is seen of the VM to call it calm."""
    return (turn.trusted and turn.fresh) or "vif_tx_pps" in turn.view.hrem


def _span_s(turn: Turn, rule: Rule) -> float:
    """Return how much time is covered by what the rule sees in this tick."""
    # Where dom0 counted nothing, all that is seen is the agent's.
    of_agent = turn.fresh and (rule.by_report or not turn.view.hrem)
    return turn.vm.covered_s if of_agent else turn.vm.counted_s
