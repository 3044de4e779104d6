# SPDX-License-Identifier: LGPL-2.1-or-later
"""Balance: lets the balancer look at the host every few seconds, and does, or tells, what it finds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xenwarden_channel.errors import StoreError
from xenwarden_host.daemon.desk import NAMES, Desk, number
from xenwarden_host.errors import HypervisorError, XenwardenError
from xenwarden_host.hrem import balancer
from xenwarden_host.hrem.balancer import Balancer, Mood, Seat
from xenwarden_host.hsem.masks import STARVING
from xenwarden_host.policy.model import BalanceMode
from xenwarden_host.records import LimitKind, VmState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from xenwarden_host.daemon.desk import Tools
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.hrem.balancer import Change
    from xenwarden_host.hrem.grantbook import Id
    from xenwarden_host.policy.model import Policy
    from xenwarden_host.records import DomainInfo

_LOOK_S = 5.0
_MAX_WEIGHT = 65535


class BalanceDesk(Desk):
    """All VMs' balance. What is done goes through the book of grants.

    Attributes:
        advice: what would be done, in sentences, where policy has it told only.
    """

    def __init__(self, policy: Policy, tools: Tools) -> None:
        super().__init__(policy, tools)
        self._balancer = Balancer(policy.balance)
        self._next_s = float("-inf")
        self._looked_s = 0.0
        self._cpu_s: dict[str, tuple[int, float]] = {}  # domid and CPU time at the last look
        self.advice: list[str] = []

    def set_policy(self, policy: Policy) -> None:
        """Work by this policy from now on."""
        self.policy = policy
        self._balancer.policy = policy.balance

    def tick(self, vms: Mapping[str, Guest], limited: Collection[Id], *, killed: bool) -> None:
        """Do what is due; what was lent ends where a limit comes, or where policy does not have it any more.

        Raises:
            XenwardenError, StoreError: the host cannot be read, or the journal not written.
        """
        acts = self.policy.balance.mode is BalanceMode.ACT and not killed
        for id_ in list(self.book.lent):
            guest = vms.get(id_[0])
            if guest is not None and (why := self._ends(guest, id_[1], limited, acts=acts)):
                self._end(guest, id_[1], why)
        if self.policy.balance.mode is BalanceMode.NONE or killed:
            self.advice = []
        elif (now_s := self._clock.monotonic()) >= self._next_s:
            self._next_s = now_s + _LOOK_S
            self._look(vms, limited, now_s)

    def _ends(self, guest: Guest, kind: LimitKind, limited: Collection[Id], *, acts: bool) -> str:
        """Return why the VM is to have its own again; empty where it keeps what it was lent."""
        uuid = guest.info.uuid
        if not acts:
            return "nothing is balanced any more"
        if (uuid, kind) in limited:
            return "it is limited"
        if self._status(uuid) is VmState.CONTAINED:
            return "HSEM finds it an attacker"
        return "it is exempt" if self.policy.vm(uuid, guest.info.name).exempt else ""

    def _look(self, vms: Mapping[str, Guest], limited: Collection[Id], now_s: float) -> None:
        signals = {uuid: self._signals(guest) for uuid, guest in vms.items()}
        passed_s = now_s - self._looked_s
        cpu_pct = self._cpu_pct(vms, now_s)
        used = sum(cpu_pct.values())
        starved = {uuid for uuid, kind in limited if kind in STARVING}
        for uuid, pct in cpu_pct.items():
            of_its_vcpus = min(100.0, pct / max(1, vms[uuid].info.vcpus_online))
            signals[uuid] = {**signals[uuid], "vcpu_pct": of_its_vcpus}
            if uuid in starved:  # it waits because of the limit
                signals[uuid] = {**signals[uuid], "steal_pct": 0.0}
        host = self._hypervisor.host_info()
        policy = self.policy.balance
        contended = used >= policy.full_pct * host.pcpus
        guests = {u: guest for u, guest in vms.items() if not guest.info.service and not guest.info.dying}
        self.advice = []
        for kind in balancer.KINDS:
            moods = {uuid: balancer.mood(kind, signals[uuid], policy, contended=contended) for uuid in guests}
            hungry = self._balancer.observe(kind, moods, now_s)
            if not hungry and not any(id_[1] is kind for id_ in self.book.lent):
                continue  # nothing to ask the host for: the usual case
            seats = self._seats(kind, guests, signals, limited)
            if kind is LimitKind.MEMORY:
                keeps_kb = self.policy.grants.host_keeps_kb
                rooms = [(seats, balancer.memory_room(seats, host.free_memory_kb, keeps_kb))]
            else:  # weights count among those of one pool
                pools: dict[int, list[Seat]] = {}
                for seat in seats:
                    info, hungry = guests[seat.uuid].info, moods[seat.uuid] is Mood.HUNGRY
                    got_s = cpu_pct.get(seat.uuid, 0.0) * passed_s / 100
                    pools.setdefault(info.cpupool, []).append(
                        self._with_cpu(seat, info, got_s) if hungry and seat.movable else seat
                    )
                rooms = [(pool, balancer.weight_room(pool)) for pool in pools.values()]
            own = {seat.uuid: seat.own for seat in seats}
            for together, room in rooms:
                for change in self._balancer.decide(kind, together, room, now_s, passed_s):
                    self._take(change, guests[change.uuid], own[change.uuid], now_s)

    def _cpu_pct(self, vms: Mapping[str, Guest], now_s: float) -> dict[str, float]:
        """Return what each VM got of one CPU since the last look.

        Over one tick that is too rough: the list and the clock are not read at one instant, and who is a
        little late would never be seen to fill the host without a break.
        """
        before, passed_s = self._cpu_s, now_s - self._looked_s
        self._cpu_s = {uuid: (guest.info.domid, guest.info.cpu_time_s) for uuid, guest in vms.items()}
        self._looked_s = now_s
        return {
            uuid: 100.0 * max(0.0, cpu_s - before[uuid][1]) / passed_s
            for uuid, (domid, cpu_s) in self._cpu_s.items()
            if uuid in before and before[uuid][0] == domid
        }

    def _seats(
        self,
        kind: LimitKind,
        guests: Mapping[str, Guest],
        signals: Mapping[str, Mapping[str, float]],
        limited: Collection[Id],
    ) -> list[Seat]:
        """Return how all VMs stand; one that cannot be read is left out."""
        homes = [f"/local/domain/{guest.info.domid}" for guest in guests.values()]
        most = self._store.read_many([f"{home}/memory/static-max" for home in homes])
        seats = []
        for guest, value in zip(guests.values(), most, strict=True):
            info, id_ = guest.info, (guest.info.uuid, kind)
            policy = self.policy.vm(info.uuid, info.name)
            try:
                has = self.book.has(info, kind)
            except (XenwardenError, StoreError):
                continue
            own = self.book.own(id_, has)
            used_pct = signals[info.uuid].get("mem_used_pct", 100.0)
            ceiling = policy.maximum.get(kind, int(own * self.policy.balance.times))
            if kind is LimitKind.MEMORY:  # a fixed node that libxl writes and no guest can
                ceiling = min(ceiling, int(value) if value is not None and value.isdigit() else own)
            else:
                ceiling = min(ceiling, _MAX_WEIGHT)
            seats.append(
                Seat(
                    uuid=info.uuid,
                    has=has,
                    own=own,
                    taken=info.memory_kb if kind is LimitKind.MEMORY else has,
                    guarantee=policy.guarantee.get(kind, 0),
                    ceiling=ceiling,
                    movable=not policy.exempt
                    and not info.paused
                    and info.cpu_time_s > 0
                    and id_ not in limited
                    and id_ not in self.book.wants
                    and self._status(info.uuid) is VmState.NORMAL,
                    used=int(info.memory_kb * used_pct / 100) if kind is LimitKind.MEMORY else 0,
                )
            )
        return seats

    def _with_cpu(self, seat: Seat, info: DomainInfo, got_s: float) -> Seat:
        """Return a hungry VM's seat with what it got of the CPU, and where it may have it."""
        try:
            vcpus = self._hypervisor.vcpu_infos(info.domid)
            capped = self._hypervisor.sched_params(info.domid).cap
        except HypervisorError:
            return seat
        places = {vcpu.cpus for vcpu in vcpus}
        if capped or len(places) != 1:
            return seat
        blocked = sum(vcpu.blocked for vcpu in vcpus) / len(vcpus)
        return replace(seat, vcpus=len(vcpus), got_s=got_s, blocked=blocked, cpus=places.pop())

    def _take(self, change: Change, guest: Guest, own: int, now_s: float) -> None:
        value, was = (number(change.kind, amount) for amount in (change.value, change.was))
        text = f"{guest.info.name}: {NAMES[change.kind]} {was} to {value}: {change.why}"
        if self.policy.balance.mode is BalanceMode.ADVISE:
            self.advice.append(f"balance: {text}")
            return
        id_ = (change.uuid, change.kind)
        if change.value == own:
            self.book.end_lent(id_)
        else:
            self.book.lend(id_, change.value, change.why, self._clock.unix())
        self._balancer.note(change, now_s)
        self._record("balance", guest, text, change.kind, value=change.value, was=change.was, original=own)

    def _end(self, guest: Guest, kind: LimitKind, why: str) -> None:
        self.book.end_lent((guest.info.uuid, kind))
        text = f"{guest.info.name} has its own {NAMES[kind]} again: {why}"
        self._record("balance-ended", guest, text, kind)
