# SPDX-License-Identifier: LGPL-2.1-or-later
"""The load balancer: who gets more of the host's CPU and memory, and from whom. Pure: no host, no clock.

Nothing is made of nothing: a hungry VM gets what is free, or what VMs lend that have long been idle. All
weights together never exceed what they were without us, so that dom0 and whoever else is on the host
keeps its share; all memory together never exceeds what the host has and does not keep. A VM that is hungry
and has less than is its own goes first, before those that have more than theirs; but nobody is made hungry
by what is taken from it, and who lends stays idle.

It cannot thrash: between *hungry* and *idle* a VM keeps what it has; either must last; what changes changes
by no less than `least` and no more than `step`, and a VM no more often than `every_s`.

Of weights it is not enough that they are as guaranteed: `shares` sees to what VMs get for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from xenwarden_host.hrem.shares import Shares
from xenwarden_host.records import LimitKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xenwarden_host.policy.model import BalancePolicy

KINDS = (LimitKind.WEIGHT, LimitKind.MEMORY)


class Mood(Enum):
    """How a VM stands with a resource."""

    HUNGRY = "hungry"
    CONTENT = "content"  # neither: it keeps what it has
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Seat:
    """One VM and one resource, in the unit of the resource: a weight, or kB."""

    uuid: str
    has: int  # what it was told that it has
    own: int  # without us
    taken: int  # what it really holds; of a weight the same as `has`
    guarantee: int  # 0: none
    ceiling: int
    movable: bool  # False: suspected, limited, granted more, exempt, or not to be known
    used: int = 0  # of memory: to take it away would have the VM kill processes
    # Of a weight, for VMs that are hungry:
    vcpus: int = 1
    got_s: float = 0.0  # CPU time since the last look
    blocked: float = 0.0  # the share of its vCPUs that wanted none when looked at
    cpus: frozenset[int] = frozenset()  # where its vCPUs may run; none: its share is not to be compared


@dataclass(frozen=True, slots=True)
class Change:
    """One VM is to have `value` in place of `was`."""

    uuid: str
    kind: LimitKind
    value: int
    was: int
    why: str


def mood(kind: LimitKind, signals: Mapping[str, float], policy: BalancePolicy, *, contended: bool) -> Mood:
    """Return how a VM stands now. Of CPU nobody is hungry who does not wait for it while the host is full."""
    rule = policy.rules[kind]
    if kind is LimitKind.MEMORY:
        used = signals.get("mem_used_pct")
        hungry = used is not None and used >= rule.hungry_pct
    else:
        steal = signals.get("steal_pct", 0.0)
        # It waits while others have their turn: what its agent says belongs together.
        used = signals.get("vcpu_pct")
        used = None if used is None else max(used, signals.get("cpu_pct", 0.0)) + steal
        hungry = used is not None and contended and steal >= policy.waits_pct and used >= rule.hungry_pct
    if hungry:
        return Mood.HUNGRY
    return Mood.IDLE if used is not None and used <= rule.idle_pct else Mood.CONTENT


def weight_room(seats: Iterable[Seat]) -> int:
    """Return by how much weights may rise: their sum never exceeds that of the VMs' own."""
    return sum(seat.own - seat.has for seat in seats)


def memory_room(seats: Iterable[Seat], free_kb: int, keeps_kb: int) -> int:
    """Return how much memory is free for the taking; what was told or guaranteed to a VM is not."""
    return free_kb - keeps_kb - sum(max(0, max(s.has, s.guarantee) - s.taken) for s in seats)


class Balancer:
    """Moods over time, and what follows."""

    def __init__(self, policy: BalancePolicy) -> None:
        self.policy = policy
        self._moods: dict[tuple[str, LimitKind], tuple[Mood, float]] = {}  # since when
        self._changed_s: dict[str, float] = {}
        self._hungry_s: dict[LimitKind, float] = {}  # when somebody was last
        self._shares = Shares()

    def observe(self, kind: LimitKind, moods: Mapping[str, Mood], now_s: float) -> bool:
        """Take all VMs' moods; return whether anybody has been hungry for long enough."""
        before = self._moods
        for uuid, found in moods.items():
            if (uuid, kind) not in before or before[uuid, kind][0] is not found:
                before[uuid, kind] = (found, now_s)
        for id_ in [id_ for id_ in before if id_[1] is kind and id_[0] not in moods]:
            del before[id_]
            self._changed_s.pop(id_[0], None)
            self._shares.forget(id_[0])
        hungry = any(self._mood(uuid, kind, now_s) is Mood.HUNGRY for uuid in moods)
        if hungry:
            self._hungry_s[kind] = now_s
        return hungry

    def note(self, change: Change, now_s: float) -> None:
        """Note that a change was made: the VM is let alone for `every_s`."""
        self._changed_s[change.uuid] = now_s

    def decide(
        self, kind: LimitKind, seats: Sequence[Seat], room: int, now_s: float, passed_s: float
    ) -> list[Change]:
        """Return what is to change now, `passed_s` after the last look; at most one change for each VM.

        What VMs give is not given on in the same turn: it must be free first.
        """
        turn = _Turn(kind, self.policy)
        base = turn.bases(seats)
        free = [
            seat
            for seat in seats
            if seat.movable and now_s - self._changed_s.get(seat.uuid, float("-inf")) >= self.policy.every_s
        ]
        moods = {seat.uuid: self._mood(seat.uuid, kind, now_s) for seat in seats}
        hungry = [s for s in seats if s.movable and moods[s.uuid] is Mood.HUNGRY]
        if kind is LimitKind.WEIGHT:
            self._shares.note_hungry(hungry, now_s)
            self._shares.look(hungry, base, room, passed_s, self.policy)
            base.update(self._shares.weights(hungry, base, room))
        for seat in free:
            if moods[seat.uuid] is Mood.IDLE and seat.has > seat.own:
                turn.move(seat, seat.own, "it is idle, and has more than is its own")
            elif kind is LimitKind.WEIGHT:
                turn.move(seat, self._shares.back(seat, now_s, self.policy), "it is not hungry any more")
        wants = {seat.uuid: turn.wanted(seat, base[seat.uuid]) for seat in hungry}
        coming = sum(max(0, seat.taken - seat.has) for seat in seats)
        short = sum(wants.values()) - room - coming + turn.moved()
        if short > 0:
            self._lend(turn, free, moods, base, wants, short)
        # Who has less than its share goes first, then who has least of what it may have.
        for seat in sorted(hungry, key=lambda s: (s.has >= base[s.uuid], s.has / max(1, base[s.uuid]))):
            lacks = max(0, min(seat.guarantee, base[seat.uuid]) - max(seat.has, seat.taken))
            gets = max(0, min(wants[seat.uuid], room + (lacks if kind is LimitKind.MEMORY else 0)))
            if seat in free and turn.move(seat, seat.has + gets, "it is hungry"):
                room -= gets
        if now_s - self._hungry_s.get(kind, float("-inf")) >= self.policy.idle_s:
            # Who has more than its own and uses it keeps it: else it would be hungry again, and so on.
            for seat in free:
                most = min(seat.own, seat.has + room)
                if seat.has < most and turn.move(seat, most, "nobody is hungry any more"):
                    room -= turn.changes[seat.uuid].value - seat.has
        return list(turn.changes.values())

    def _lend(
        self,
        turn: _Turn,
        free: Sequence[Seat],
        moods: Mapping[str, Mood],
        base: Mapping[str, int],
        wants: Mapping[str, int],
        short: int,
    ) -> None:
        """Have others give what is short: those that have more than their share, then those long idle."""
        there = sum(wants.values()) - short
        lacking = sum(wants.get(s.uuid, 0) for s in free if turn.lacks(s, base[s.uuid])) - there
        for seat in sorted(free, key=lambda s: -(s.has - base[s.uuid])):
            if lacking > 0 and seat.has > base[seat.uuid]:
                given = turn.give(
                    seat, base[seat.uuid], lacking, "another has less than its share and is hungry"
                )
                lacking -= given
                short -= given
        for seat in sorted(free, key=lambda s: -(s.has - turn.floor(s, base[s.uuid]))):
            if short > 0 and moods[seat.uuid] is Mood.IDLE:
                short -= turn.give(
                    seat, turn.floor(seat, base[seat.uuid]), short, "it is idle, another hungry"
                )

    def _mood(self, uuid: str, kind: LimitKind, now_s: float) -> Mood:
        """Return the VM's mood once it has lasted."""
        found, since_s = self._moods.get((uuid, kind), (Mood.CONTENT, now_s))
        lasts_s = self.policy.hungry_s if found is Mood.HUNGRY else self.policy.idle_s
        return found if now_s - since_s >= lasts_s else Mood.CONTENT


class _Turn:
    """The changes of one turn, one for each VM at most."""

    def __init__(self, kind: LimitKind, policy: BalancePolicy) -> None:
        self.kind = kind
        self._rule = policy.rules[kind]
        self._policy = policy
        self.changes: dict[str, Change] = {}

    def bases(self, seats: Sequence[Seat]) -> dict[str, int]:
        """Return each VM's share when all are hungry: weights as guaranteed, of memory its own."""
        if self.kind is LimitKind.MEMORY:
            return {seat.uuid: max(seat.own, seat.guarantee) for seat in seats}
        whole = sum(seat.own for seat in seats)
        claims = sum(seat.guarantee or seat.own for seat in seats)
        return {seat.uuid: (seat.guarantee or seat.own) * whole // max(1, claims) for seat in seats}

    def floor(self, seat: Seat, base: int) -> int:
        """Return the least that the VM keeps, however idle it is."""
        if self.kind is LimitKind.WEIGHT:
            return base if seat.guarantee else int(base * self._policy.keeps)
        still_idle = int(seat.used * 100 / max(1.0, self._rule.idle_pct))
        return max(seat.guarantee, int(seat.own * self._policy.keeps), still_idle)

    def lacks(self, seat: Seat, base: int) -> bool:
        """Tell whether the VM has less than its share, by what is worth a change."""
        return base - seat.has >= self._rule.least

    def wanted(self, seat: Seat, base: int) -> int:
        """Return how much more a hungry VM is to get in this turn, if there is as much: its share first."""
        most = max(seat.ceiling, min(base, seat.own))
        more = min(self._rule.step, (min(most, base) if self.lacks(seat, base) else most) - seat.has)
        return more if more >= self._rule.least else 0

    def give(self, seat: Seat, floor: int, short: int, why: str) -> int:
        """Have a VM give what is short; return how much it gives."""
        wanted = max(short, self._rule.least)
        if seat.has <= floor or not self.move(seat, max(floor, seat.has - wanted), why):
            return 0
        return seat.has - self.changes[seat.uuid].value

    def move(self, seat: Seat, value: int, why: str) -> bool:
        """Change by one step towards `value`; return whether that is enough to be done."""
        if value < seat.has:
            value = max(value, min(seat.has, math.ceil(seat.used * 100 / max(1.0, self._rule.hungry_pct))))
        step = max(-self._rule.step, min(self._rule.step, value - seat.has))
        # The last bit of the way back to its own is always enough.
        enough = abs(step) >= self._rule.least or (step != 0 and seat.has + step == seat.own)
        if not enough or seat.uuid in self.changes:
            return False
        self.changes[seat.uuid] = Change(seat.uuid, self.kind, seat.has + step, seat.has, why)
        return True

    def moved(self) -> int:
        """Return by how much all have changed so far: what was given is below 0."""
        return sum(change.value - change.was for change in self.changes.values())
