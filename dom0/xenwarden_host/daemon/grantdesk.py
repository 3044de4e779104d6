# SPDX-License-Identifier: LGPL-2.1-or-later
"""HREM's desk: takes VMs' requests for more, asks HSEM, decides, does it, answers, and takes back.

What a request costs does not depend on how many a guest writes: at most one per VM and tick is looked
at, most of those end at the first question (was one decided a moment ago?), and of what is denied the log
has one line a minute for each VM.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xenwarden_channel import messages, paths
from xenwarden_channel.errors import StoreError
from xenwarden_channel.grants import REASONS
from xenwarden_host.daemon.desk import NAMES, Desk, number
from xenwarden_host.errors import XenwardenError
from xenwarden_host.hrem import grants
from xenwarden_host.hrem.grantbook import PROBLEMS, Became
from xenwarden_host.hrem.grants import Decision, Situation
from xenwarden_host.records import LimitKind, VmState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from xenwarden_host.daemon.desk import Tools
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.hrem.grantbook import Change, Id
    from xenwarden_host.policy.model import Policy
    from xenwarden_host.records import Request

log = logging.getLogger("xenwarden.grants")

_RETRY_S = 5.0  # after a denial the next request is looked at again
_DONE_WITHIN_S = 10.0  # what is not read back by then is taken back, and expired
_TELL_EVERY_S = 60.0
_MAX_WEIGHT = 65535


class _Asker:
    """What the desk keeps of one running domain."""

    def __init__(self, domid: int) -> None:
        self.domid = domid
        self.answered: int | None = None  # the last request's id; None: not known since the daemon started
        self.next_s = float("-inf")  # the next request is not looked at before
        self.next_tell_s = float("-inf")
        self.waiting: tuple[Request, Decision, float] | None = None  # done, not read back; until when
        self.enough_since_s: dict[LimitKind, float] = {}  # since when it could do without its grant


class GrantDesk(Desk):
    """All VMs' requests, and what was granted."""

    def __init__(self, policy: Policy, tools: Tools) -> None:
        super().__init__(policy, tools)
        self._limited: Collection[Id] = ()
        self._askers: dict[str, _Asker] = {}

    def tick(self, vms: Mapping[str, Guest], limited: Collection[Id], *, killed: bool) -> None:
        """Do what is due; while `killed` nothing is granted, taken back or changed.

        `limited` are the resources on which limits stand now, or are decided: they are left alone.
        """
        now_s = self._clock.monotonic()
        self._limited = limited
        if self._askers.keys() - vms.keys():
            self._askers = {uuid: asker for uuid, asker in self._askers.items() if uuid in vms}
        for uuid, guest in vms.items():
            request = guest.inbox.request
            if request is not None:
                self._take(uuid, guest, request, vms, now_s, killed=killed)
        if killed:
            self._reconcile_book(vms, {*limited, *self.book.wants})  # what was lent goes back
            return
        for id_ in list(self.book.wants):
            if id_[0] in vms:
                self._look_whether_needed(id_, vms[id_[0]], now_s)
        self._reconcile(vms, now_s)

    def take_back(self, vms: Mapping[str, Guest], uuids: Collection[str]) -> None:
        """Take back now what these VMs were granted or lent: nobody would later."""
        for id_ in [id_ for id_ in (*self.book.wants, *self.book.lent) if id_[0] in uuids]:
            self.book.end(id_)
            self.book.end_lent(id_)
        self._reconcile(vms, self._clock.monotonic())

    def _reconcile(self, vms: Mapping[str, Guest], now_s: float) -> None:
        self._reconcile_book(vms, self._limited)
        for uuid, asker in self._askers.items():
            if asker.waiting is not None and now_s >= asker.waiting[2] and uuid in vms:
                request, decision, _until_s = asker.waiting
                asker.waiting = None
                self.book.end((uuid, request.kind))
                self._answer(vms[uuid], request, "expired", Decision(0, "failed"))
                self._tell_of_denial(vms[uuid], request, f"expired: {REASONS['failed']}")
                log.warning("event=grant-expired uuid=%s kind=%s more=%d", uuid, request.kind, decision.more)

    def _reconcile_book(self, vms: Mapping[str, Guest], let_alone: Collection[Id]) -> None:
        domains = {uuid: guest.info for uuid, guest in vms.items()}
        for change in self.book.reconcile(domains, let_alone, self._note_failure):
            self._note(change, vms[change.id[0]])

    # --- requests ----------------------------------------------------------------------------------

    def _take(
        self,
        uuid: str,
        guest: Guest,
        request: Request,
        vms: Mapping[str, Guest],
        now_s: float,
        *,
        killed: bool,
    ) -> None:
        asker = self._askers.get(uuid)
        if asker is None or asker.domid != guest.info.domid:
            asker = self._askers[uuid] = _Asker(guest.info.domid)
        if asker.answered is None:
            asker.answered = self._answered_before(guest)
        if request.request_id == asker.answered:
            return
        asker.answered = request.request_id
        if asker.waiting is not None or now_s < asker.next_s:
            self._answer(guest, request, "denied", Decision(0, "too-soon"))
            return
        asker.next_s = now_s + _RETRY_S
        status = self._status(uuid)
        decision = self._decide(guest, request, status, vms, killed=killed)
        if decision.more:
            decision = self._begin(guest, request, decision, status)
        if decision.more:
            asker.next_s = now_s + self.policy.grants.every_s
            asker.waiting = (request, decision, now_s + _DONE_WITHIN_S)
        else:
            self._answer(guest, request, "denied", decision)
            self._tell_of_denial(guest, request, f"denied: {REASONS[decision.why]} (HSEM: {status})")

    def _answered_before(self, guest: Guest) -> int:
        """Return the id that an earlier daemon answered last: what stands in dom0's own node."""
        path = paths.absolute(guest.info.domid, paths.DOWN_GRANT)
        try:
            (value,) = self._store.read_many([path])
            return int(messages.parse(value, "grant").number("id") or 0) if value is not None else 0
        except (StoreError, messages.MessageError):
            return 0

    def _decide(
        self, guest: Guest, request: Request, status: VmState, vms: Mapping[str, Guest], *, killed: bool
    ) -> Decision:
        kind, uuid = request.kind, guest.info.uuid
        if killed or guest.info.service:
            return Decision(0, "not-allowed")
        if (uuid, kind) in self._limited:
            return Decision(0, "limited")
        try:
            situation = self._situation(guest, kind, status, vms)
        except (XenwardenError, StoreError) as problem:
            self._note_failure((uuid, kind), problem)
            return Decision(0, "not-here")
        return grants.decide(request.more, situation, self.policy.grants.resources[kind])

    def _situation(
        self, guest: Guest, kind: LimitKind, status: VmState, vms: Mapping[str, Guest]
    ) -> Situation:
        info, policy = guest.info, self.policy
        has = self.book.has(info, kind)
        return Situation(
            status=status,
            has=has,
            own=self.book.own((info.uuid, kind), has),
            ceiling=self._ceiling(guest, kind, has),
            maximum=policy.vm(info.uuid, info.name).maximum.get(kind),
            room=self._room(guest, kind, vms),
            needs=grants.needs_more(kind, has, self._signals(guest), policy.grants.need_pct),
        )

    def _ceiling(self, guest: Guest, kind: LimitKind, has: int) -> int | None:
        """Return what the VM's configuration allows; fixed nodes that libxl writes and no guest can."""
        home = f"/local/domain/{guest.info.domid}"
        if kind is LimitKind.WEIGHT:
            return _MAX_WEIGHT
        if kind is LimitKind.MEMORY:
            (value,) = self._store.read_many([f"{home}/memory/static-max"])
            return int(value) if value is not None and value.isdigit() else None
        step = self.policy.grants.resources[kind].step
        nodes = [f"{home}/cpu/{number}/availability" for number in range(has, has + step)]
        return has + sum(value is not None for value in self._store.read_many(nodes))

    def _room(self, guest: Guest, kind: LimitKind, vms: Mapping[str, Guest]) -> int:
        """Return how much more the host can give."""
        rules = self.policy.grants
        if kind is LimitKind.WEIGHT:
            return _MAX_WEIGHT
        host = self._hypervisor.host_info()
        others = [other.info for other in vms.values() if not other.info.service]
        if kind is LimitKind.VCPUS:
            taken = sum(info.vcpus_online for info in others)
            return min(int(host.pcpus * rules.vcpus_per_cpu) - taken, host.pcpus - guest.info.vcpus_online)
        # What is promised is not free, though the VM has not taken it yet.
        promised = 0
        for info in others:
            want = self.book.wants.get((info.uuid, kind))
            guarantee = self.policy.vm(info.uuid, info.name).guarantee.get(kind, 0)
            if info.uuid == guest.info.uuid:
                guarantee = 0
            promised += max(0, max(guarantee, want.value if want else 0) - info.memory_kb)
        return host.free_memory_kb - rules.host_keeps_kb - promised

    def _begin(self, guest: Guest, request: Request, decision: Decision, status: VmState) -> Decision:
        id_ = (guest.info.uuid, request.kind)
        has = self.book.has(guest.info, request.kind)
        why = f"asked for {_more(request.kind, request.more)}, HSEM: {status}"
        try:
            self.book.grant(id_, has + decision.more, why, self._clock.unix())
        except PROBLEMS as problem:
            self._note_failure(id_, problem)
            return Decision(0, "failed")
        return decision

    # --- taking back -------------------------------------------------------------------------------

    def _look_whether_needed(self, id_: Id, guest: Guest, now_s: float) -> None:
        asker = self._askers.setdefault(id_[0], _Asker(guest.info.domid))
        if asker.waiting is not None:
            return
        if self._status(id_[0]) is VmState.CONTAINED:
            self._take_back(id_, guest, "HSEM finds it an attacker")
            return
        kind, rules = id_[1], self.policy.grants
        has = self.book.wants[id_].value
        own = self.book.own(id_, has)
        if not grants.own_is_enough(kind, has, own, self._signals(guest), rules.need_pct):
            asker.enough_since_s.pop(kind, None)
        elif now_s - asker.enough_since_s.setdefault(kind, now_s) >= rules.idle_s:
            self._take_back(id_, guest, f"not needed for {rules.idle_s:.0f} s")
            asker.next_s = now_s + rules.every_s

    def _take_back(self, id_: Id, guest: Guest, why: str) -> None:
        name, has = guest.info.name, self.book.wants[id_].value
        own = self.book.own(id_, has)
        self.book.end(id_)
        self._askers[id_[0]].enough_since_s.pop(id_[1], None)
        self._record(
            "grant-ended",
            guest,
            f"{name} gives {number(id_[1], has - own)} of {NAMES[id_[1]]} back: {why}",
            kind=id_[1],
            value=own,
            was=has,
        )

    # --- words -------------------------------------------------------------------------------------

    def _note(self, change: Change, guest: Guest) -> None:
        """Record a change that was read back, and answer who waits for it."""
        uuid, kind = change.id
        name = guest.info.name
        if change.became is Became.OVERRULED:
            text = f"{name}: somebody else changed its {NAMES[kind]} while it was granted or lent: that stays"
            self._record("grant-overruled", guest, text, kind, value=change.has)
            return
        asker = self._askers.get(uuid)
        waiting = asker.waiting if asker is not None else None
        if change.became is not Became.SET or asker is None or waiting is None or waiting[0].kind is not kind:
            return
        request, decision, _until_s = waiting
        asker.waiting = None
        self._answer(guest, request, "granted", decision)
        why = self.book.wants[change.id].why
        own = f"now {number(kind, change.has)}, {number(kind, change.own)} its own"
        self._record(
            "grant",
            guest,
            f"{name} gets {_more(kind, decision.more)}: {why} ({own})",
            kind=kind,
            value=change.has,
            more=decision.more,
            asked=request.more,
            original=change.own,
        )

    def _answer(self, guest: Guest, request: Request, outcome: str, decision: Decision) -> None:
        fields: dict[str, str | float] = {
            "id": str(request.request_id),
            "outcome": outcome,
            "what": str(request.kind),
            "more": str(decision.more),
            "why": decision.why,
        }
        guest.down.want(paths.DOWN_GRANT, fields)

    def _tell_of_denial(self, guest: Guest, request: Request, what: str) -> None:
        asker, now_s = self._askers[guest.info.uuid], self._clock.monotonic()
        if now_s < asker.next_tell_s:
            return
        asker.next_tell_s = now_s + _TELL_EVERY_S
        text = f"{guest.info.name} asked for {_more(request.kind, request.more)}, {what}"
        self._record("grant-denied", guest, text, request.kind, asked=request.more)

    def _note_failure(self, id_: Id, problem: Exception) -> None:
        log.warning("event=grant-failed uuid=%s kind=%s error=%r", id_[0], id_[1], str(problem))


def _more(kind: LimitKind, value: int) -> str:
    return f"{number(kind, value)} more {NAMES[kind]}"
