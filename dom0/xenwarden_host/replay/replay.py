# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the core on a recording: lines in, what it decided out, with the times of the recording."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

from xenwarden_host.hrem.history import History
from xenwarden_host.hrem.overflow import Overflows
from xenwarden_host.hsem import state
from xenwarden_host.hsem.hsem import Hsem
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
    VmState,
    VmType,
    VmView,
)
from xenwarden_host.replay.reader import BadLineError, parse_header, parse_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xenwarden_host.policy.model import Policy
    from xenwarden_host.replay.reader import Line

_NO_SIGNALS: Mapping[str, float] = {}
_NO_LIMITS: frozenset[LimitKey] = frozenset()


@dataclass(slots=True)
class _Vm:
    """What the recording said last of one VM."""

    uuid: str
    name: str
    domid: int
    known_since_s: float
    vm_type: VmType = VmType.PV
    vcpus: int = 1
    paused: bool = False
    agent: AgentState | None = None  # None: the recording does not say, so it is as its signals tell
    held: frozenset[LimitKey] = _NO_LIMITS
    interval_s: float | None = None
    dom0: Mapping[str, float] = field(default_factory=dict)
    report: Report | None = None
    report_is_new: bool = False
    reported_s: float = 0.0
    handed_s: float | None = None  # the tick that took it
    passed_s: float = 0.0
    answer: Answer | None = None
    seq: int = 0


class Replay:
    """One recording and one core.

    `skip_bad`: pass over bad lines, and count them in `bad`. `scores`: say of each line with signals how
    unusual it is.
    """

    def __init__(self, policy: Policy, *, skip_bad: bool = False, scores: bool = False) -> None:
        self._scores = scores
        self._history = History(policy)
        self._overflows = Overflows(policy, self._history)
        self._hsem = Hsem(policy, self._history)
        self._level1_s = policy.levels.level1_s
        self._skip_bad = skip_bad
        self._vms: dict[str, _Vm] = {}
        self._changed: set[str] = set()
        self._states: dict[str, Any] = {}
        self._interval_s: float | None = None
        self._zero_unix_s = 0.0
        self._t: float | None = None  # of the tick whose lines are being read
        self._last_t = 0.0
        self._domids = 0
        self.records = 0  # lines that hold signals
        self.ticks = 0
        self.bad = 0

    def run(self, lines: Iterable[bytes], file: str) -> Iterator[dict[str, Any]]:
        """Yield what happened, in order.

        Raises:
            BadLineError: `file:line: reason`, the first line always, others unless `skip_bad`.
        """
        for number, text in enumerate(lines, 1):
            if number == 1:
                self._begin(text, file)
                continue
            try:
                line = parse_line(text)
                if self._is_later(line.t) or line.vm is None:
                    yield from self._tick()
                if line.vm is not None and line.said.keys() & {"release", "order"}:
                    yield from self._tick()
                    self._last_t = line.t
                    yield from self._told(self._operator(line.vm, line.said), line.t)
                else:
                    self._take(line)
            except BadLineError as error:
                if not self._skip_bad:
                    raise BadLineError(f"{file}:{number}: {error}") from None
                self.bad += 1
        if self._t is not None:
            yield from self._tick()

    def _begin(self, text: bytes, file: str) -> None:
        try:
            head = parse_header(text)
        except BadLineError as error:
            raise BadLineError(f"{file}:1: {error}") from None
        self._zero_unix_s, self._interval_s = head.unix_s, head.interval_s

    # --- lines ----------------------------------------------------------------------------------

    def _take(self, line: Line) -> None:
        t, said = line.t, line.said
        if line.vm is None:
            self._zero_unix_s = said.get("unix_s", self._zero_unix_s)
            self._t = self._last_t = t
            return
        if said.get("gone"):
            self._vms.pop(line.vm, None)
            self._changed.discard(line.vm)
            self._t = self._last_t = t
            return
        if line.vm in self._changed:
            raise BadLineError(f"a second line of {line.vm!r} for this t")
        vm = self._vms.get(line.vm)
        self._restore(line.vm, said, t)
        if vm is None:
            self._domids += 1
            vm = _Vm(line.vm, line.vm, self._domids, t)
            self._vms[line.vm] = vm
        self._t = self._last_t = t
        self._changed.add(line.vm)
        if said:
            self._note(vm, said, t)
        if line.guest or line.dom0:
            self.records += 1
        vm.dom0 = line.dom0
        if line.guest or "report" in said:
            self._report(vm, line, t)

    def _operator(self, uuid: str, said: Mapping[str, Any]) -> list[Action]:
        """Do between two ticks what an operator did."""
        if "release" in said:
            return self._hsem.release(uuid, said["release"])
        order = said["order"]
        return self._hsem.order_level(uuid, Level(order["level"]), order["who"])

    def _is_later(self, t: float) -> bool:
        if t < self._last_t:
            raise BadLineError(f"t: goes back, from {self._last_t:.15g} to {t:.15g}: all VMs go by time")
        return t > self._last_t

    def _restore(self, uuid: str, said: Mapping[str, Any], t: float) -> None:
        """Take what was known of a VM when the recording began, as a restarted daemon would."""
        try:
            if "state" in said:
                state.restore(uuid, said["state"], t)
                self._states[uuid] = said["state"]
            if "history" in said:
                self._history.restore(uuid, said["history"], t)
            if "overflow" in said:
                self._overflows.restore(uuid, said["overflow"])
        except ValueError as error:
            raise BadLineError(str(error)) from None

    def _note(self, vm: _Vm, said: Mapping[str, Any], t: float) -> None:
        """Take what a line says beside signals: of most lines, nothing."""
        vm.name = said.get("name", vm.name)
        vm.domid = said.get("domid", vm.domid)
        vm.vcpus = said.get("vcpus", vm.vcpus)
        vm.paused = said.get("paused", vm.paused)
        vm.interval_s = said.get("interval_s", vm.interval_s)
        if "type" in said:
            vm.vm_type = VmType(said["type"])
        if "agent" in said:
            vm.agent = AgentState(said["agent"])
        if "known_s" in said:
            vm.known_since_s = t - said["known_s"]
        if "held" in said:
            vm.held = frozenset(LimitKey.parse(key) for key in said["held"])
        if "answer" in said:
            answer = said["answer"]
            vm.answer = Answer(
                answer["id"],
                float(answer["load_pct"]),
                answer["near_max"],
                answer["near_max_of"],
                _NO_SIGNALS,
            )

    def _report(self, vm: _Vm, line: Line, t: float) -> None:
        own = line.said.get("report")
        gap_s = None if vm.handed_s is None else t - vm.handed_s
        if own is None:
            # As far apart as they say, or as they come.
            interval_s = vm.interval_s or self._interval_s or gap_s or self._level1_s
            seq, boot, level, age_s, passed_s = vm.seq + 1, "00000000", 1, 0.0, gap_s or interval_s
        else:
            seq, boot, level = own["seq"], own["boot"], own["level"]
            interval_s, age_s = own["interval_s"], own["age_s"]
            passed_s = own.get("passed_s", gap_s or self._level1_s)
        vm.seq = seq
        vm.report = Report(
            seq, boot, level, "", (), min(interval_s, passed_s), line.guest, (), "", 0, 0.0, 0.0, 0, 0,
            tuple(Peer("", *peer) for peer in line.said.get("destinations", ())),
        )  # fmt: skip
        vm.passed_s, vm.handed_s = passed_s, t
        vm.reported_s = t - age_s
        vm.report_is_new = True

    # --- ticks ----------------------------------------------------------------------------------

    def _tick(self) -> Iterator[dict[str, Any]]:
        t = self._t
        if t is None:
            return
        self._t = None
        if self._states:
            self._hsem.restore(self._states)
            self._states = {}
        changed = self._changed
        views = []
        for uuid, vm in self._vms.items():
            views.append(_view(vm, t, now=uuid in changed))
        changed.clear()
        self.ticks += 1
        snapshot = Snapshot(t, self._zero_unix_s + t, tuple(views))
        actions = self._hsem.decide(self._overflows.find(snapshot))
        if actions:
            yield from self._told(actions, t)
        if self._scores:
            yield from self._scored(views, t)

    def _told(self, actions: Iterable[Action], t: float) -> Iterator[dict[str, Any]]:
        for action in actions:
            vm = self._vms.get(action.uuid)
            head = {"t": t, "vm": action.uuid, "name": action.uuid if vm is None else vm.name}
            for event in _events(action):
                yield head | event

    def _scored(self, views: Iterable[VmView], t: float) -> Iterator[dict[str, Any]]:
        for view in views:
            report = view.report if view.report_is_new else None
            signals = view.hrem if report is None else {**report.signals, **view.hrem}
            if signals:
                score, signal = self._hsem.score(view.uuid, signals)
                text = f"{signal} {signals[signal]:g}" if signal else "nothing is known of it yet"
                head = {"t": t, "vm": view.uuid, "name": view.name, "event": "score"}
                yield head | {"score": round(score, 4), "signal": signal, "text": text}


def _view(vm: _Vm, t: float, *, now: bool) -> VmView:
    """Return the VM at this tick; what dom0 counts is there only in a tick that says so."""
    report = vm.report
    fresh = now and vm.report_is_new
    if fresh:
        vm.report_is_new = False
    agent = vm.agent
    if agent is None:
        agent = AgentState.ABSENT if report is None else AgentState.ALIVE
    return VmView(
        vm.uuid,
        vm.domid,
        vm.name,
        vm.vm_type,
        vm.vcpus,
        t - vm.known_since_s,
        vm.paused,
        vm.dom0 if now else _NO_SIGNALS,
        agent,
        report,
        fresh,
        None if report is None else t - vm.reported_s,
        vm.answer,
        vm.held,
        passed_s=vm.passed_s,
    )


def _events(action: Action) -> Iterator[dict[str, Any]]:
    match action:
        case OrderLevel():
            yield {"event": "level", "level": int(action.level), "text": action.why}
        case SetLimit():
            yield {
                "event": "limit",
                "kind": str(action.key),
                "value": action.value,
                "provisional": action.provisional,
                "text": action.why,
            }
        case LiftLimit():
            yield {"event": "lift", "kind": str(action.key), "text": action.why}
        case Transition():
            evidence = [asdict(item) for item in action.evidence]
            if action.new is VmState.WATCHED:
                rules = list(dict.fromkeys(item.rule for item in action.evidence))
                yield {"event": "alarm", "rules": rules, "text": action.why, "evidence": evidence}
            yield {
                "event": "state",
                "old": str(action.old),
                "new": str(action.new),
                "text": action.why,
            }
            if action.verdict is not None:
                yield {
                    "event": "verdict",
                    "verdict": str(action.verdict),
                    "also_victim": action.also_victim,
                    "text": action.why,
                    "evidence": evidence,
                }
        case Alert():
            evidence = [asdict(item) for item in action.evidence]
            yield {"event": "alarm", "rules": [action.what], "text": action.text, "evidence": evidence}
        case Ask():
            pass  # its answer is in the recording
        case _:
            assert_never(action)
