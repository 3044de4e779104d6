# SPDX-License-Identifier: LGPL-2.1-or-later
"""What HSEM keeps of one VM between ticks, and its form on disk. All times are the snapshots' `now_s`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from xenwarden_host.hsem.sight import Part
from xenwarden_host.hsem.traffic import Step, Traffic
from xenwarden_host.policy.model import RuleKind
from xenwarden_host.records import Evidence, Level, LimitKey, VmState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.detectors import Detector
    from xenwarden_host.hsem.habit import Habit, HabitKey
    from xenwarden_host.hsem.rules import Latch
    from xenwarden_host.hsem.sight import Flow
    from xenwarden_host.records import Answer

VERSION = 1


@dataclass(slots=True)
class Streak:
    """A rule that fires in observations running."""

    since_s: float
    count: int


@dataclass(slots=True)
class Settled:
    """What was found to be neither, though it goes on."""

    until_s: float
    alone_s: float  # so long it was let alone, until then
    strength: float
    times: int  # found so


@dataclass(slots=True)
class Finding:
    """What one rule found in a case."""

    kind: RuleKind
    limits: tuple[LimitKey, ...]
    needs: int  # hits that convict
    alone: bool  # gives way to any other of its kind
    stop: bool  # convicted: nothing of it passes
    last_s: float  # when it last fired
    evidence: tuple[Evidence, ...]  # of the raise, or of the strongest hit
    hits: int = 0
    strength: float = 0.0

    @property
    def convicts(self) -> bool:
        """Tell whether there is enough for a verdict."""
        return self.hits >= self.needs


@dataclass(slots=True)
class Case:
    """From the first suspicion to the release."""

    opened_s: float
    ask_id: int
    unusual_s: float  # when something unusual was last seen
    observations: int = 0
    lead_s: float = 0.0  # that the observation which opened it covers, beyond an interval of level 1
    looked: bool = False  # seen again since
    offered_pps: float = 0.0  # the most that dom0 saw it send
    answer: Answer | None = None
    findings: dict[str, Finding] = field(default_factory=dict)  # by rule
    flooders: dict[str, Flow] = field(default_factory=dict)  # by the sender's UUID
    part: Part | None = None  # in a flood next door, by which it is known from now on
    raise_latches: dict[str, Latch] = field(default_factory=dict)
    convict_latches: dict[str, Latch] = field(default_factory=dict)

    def limiting(self, kind: RuleKind) -> bool:
        """Tell whether anything of this kind was found that is to be limited."""
        return any(item.limits for item in self.of(kind))

    def of(self, kind: RuleKind, *, convicted: bool = False) -> list[Finding]:
        """Return the findings of this kind, or only those that convict."""
        return [
            item for item in self.findings.values() if item.kind is kind and (item.convicts or not convicted)
        ]


@dataclass(slots=True)
class Vm:
    """One VM, by UUID."""

    uuid: str
    domid: int = -1
    seen_s: float = 0.0
    state: VmState = VmState.NORMAL
    since_s: float = 0.0  # in this state
    level: Level = Level.ONE  # ordered
    forced: Level = Level.ONE  # by an operator: no lower than this
    case: Case | None = None
    limits: dict[LimitKey, int] = field(default_factory=dict)
    also_victim: bool = False
    calm_since_s: float | None = None
    probation_s: float = 0.0
    released_s: float | None = None  # when it last left containment
    leave_until_s: float = 0.0  # an operator wants it let alone
    distrusted: bool = False  # the agent does not tell the truth
    tell: bool = False  # level and limits must be said again: daemon or domain is new
    streaks: dict[str, Streak] = field(default_factory=dict)
    covered_s: float = 0.0  # by the agent's last word
    measured_s: float | None = None  # when dom0 last counted
    counted_s: float = 0.0  # the time that those counts cover
    told: set[str] = field(default_factory=set)  # alerts that stand
    reminded: dict[str, float] = field(default_factory=dict)  # alerts, when an admin was last told
    settled: dict[str, Settled] = field(default_factory=dict)  # by rule
    past: dict[str, tuple[float, int]] = field(default_factory=dict)  # rule → when, hits without a verdict
    masked_until: dict[LimitKey, float] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    before: dict[str, float] = field(default_factory=dict)  # means of the last ordinary reports
    habits: dict[HabitKey, Habit] = field(default_factory=dict)
    strange: set[HabitKey] = field(default_factory=set)  # of its habits
    refused: dict[Detector, Detector] = field(default_factory=dict)  # as Sight has it
    counted: dict[str, float] = field(default_factory=dict)  # dom0's counters since, at their highest
    counted_since_s: float = 0.0


def dump(vm: Vm, now_s: float) -> dict[str, Any]:
    """Return what a restart must not lose, as plain data for JSON; times become ages."""
    case = vm.case
    return {
        "version": VERSION,
        "state": str(vm.state),
        "since_ago_s": now_s - vm.since_s,
        "level": int(vm.level),
        "forced": int(vm.forced),
        "limits": {str(key): value for key, value in vm.limits.items()},
        "also_victim": vm.also_victim,
        "calm_s": None if vm.calm_since_s is None else now_s - vm.calm_since_s,
        "probation_s": vm.probation_s,
        "released_ago_s": None if vm.released_s is None else now_s - vm.released_s,
        "leave_for_s": max(0.0, vm.leave_until_s - now_s),
        "distrusted": vm.distrusted,
        "case": None
        if case is None
        else {
            "age_s": now_s - case.opened_s,
            "ask_id": case.ask_id,
            "unusual_ago_s": now_s - case.unusual_s,
            "observations": case.observations,
            "offered_pps": case.offered_pps,
            "part": case.part and (case.part.receiver, case.part.sent, case.part.got, case.part.others),
            "findings": {
                rule: {
                    "kind": str(item.kind),
                    "limits": [str(key) for key in item.limits],
                    "needs": item.needs,
                    "alone": item.alone,
                    "stop": item.stop,
                    "ago_s": now_s - item.last_s,
                    "hits": item.hits,
                    "strength": item.strength,
                    "evidence": [asdict(evidence) for evidence in item.evidence],
                }
                for rule, item in case.findings.items()
            },
        },
    }


def restore(uuid: str, data: Mapping[str, Any], now_s: float) -> Vm:
    """Return the VM that `dump` gave, as if it had been dumped at `now_s`.

    Raises:
        ValueError: the data is of another version, or no such dump.
    """
    if data.get("version") != VERSION:
        raise ValueError(f"state of version {data.get('version')}, ours is {VERSION}")
    try:
        return Vm(
            uuid=uuid,
            seen_s=now_s,
            state=VmState(data["state"]),
            since_s=now_s - data["since_ago_s"],
            level=Level(data["level"]),
            forced=Level(data["forced"]),
            limits={LimitKey.parse(key): int(value) for key, value in data["limits"].items()},
            also_victim=bool(data["also_victim"]),
            calm_since_s=None if data["calm_s"] is None else now_s - data["calm_s"],
            probation_s=float(data["probation_s"]),
            released_s=None if data["released_ago_s"] is None else now_s - data["released_ago_s"],
            leave_until_s=now_s + data["leave_for_s"] if data["leave_for_s"] else 0.0,
            distrusted=bool(data["distrusted"]),
            tell=True,
            case=None if data["case"] is None else _restore_case(data["case"], now_s),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"no state of a VM: {error!r}") from None


def _restore_case(data: Mapping[str, Any], now_s: float) -> Case:
    return Case(
        opened_s=now_s - data["age_s"],
        ask_id=int(data["ask_id"]),
        unusual_s=now_s - data["unusual_ago_s"],
        observations=int(data["observations"]),
        offered_pps=float(data["offered_pps"]),
        part=_restore_part(data.get("part")),
        findings={
            rule: Finding(
                kind=RuleKind(item["kind"]),
                limits=tuple(LimitKey.parse(key) for key in item["limits"]),
                needs=int(item["needs"]),
                alone=bool(item["alone"]),
                stop=bool(item.get("stop")),
                last_s=now_s - item["ago_s"],
                evidence=tuple(Evidence(**evidence) for evidence in item["evidence"]),
                hits=int(item["hits"]),
                strength=float(item["strength"]),
            )
            for rule, item in data["findings"].items()
        },
    )


def _restore_part(data: Any) -> Part | None:
    if data is None:
        return None
    receiver, sent, got, others = data
    return Part(str(receiver), Step(*map(float, sent)), Step(*map(float, got)), int(others))


def shift(vm: Vm, by_s: float) -> None:
    """Move all that runs by `by_s`: time in which the VM could do nothing does not count."""
    vm.since_s += by_s
    if vm.calm_since_s is not None:
        vm.calm_since_s += by_s
    if vm.case is not None:
        vm.case.opened_s += by_s
        vm.case.unusual_s += by_s
        for item in vm.case.findings.values():
            item.last_s += by_s
    for streak in vm.streaks.values():
        streak.since_s += by_s
