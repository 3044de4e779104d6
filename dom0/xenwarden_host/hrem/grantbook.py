# SPDX-License-Identifier: LGPL-2.1-or-later
"""What VMs were granted, or lent by the balancer: set, read back, and taken back to exactly their own.

A grant is no limit and stands below the limits: it is what an admin's `xl mem-set` would be, and the
limit engine takes it for that. While a limit stands on the same resource of a VM, nothing is touched
here: what is there then is the limit's. As with limits, what was there is in a journal on disk before
the first change, an admin's own change meanwhile is the last word, and a value that a new domain of
the VM carries along (reboot, restore, migration) is known as ours.

Grants and balance have one original between them: a grant ends what the balancer did. Limits stand
above both, and take no original from the balancer: `own_text`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from xenwarden_channel.errors import StoreError
from xenwarden_host.errors import HypervisorError, LimitError
from xenwarden_host.limits.journal import JournalError, Want
from xenwarden_host.limits.memory import Memory
from xenwarden_host.limits.place import Place, Whose, intend, judge
from xenwarden_host.limits.vcpus import Vcpus
from xenwarden_host.limits.weight import Weight
from xenwarden_host.records import LimitKey, LimitKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from xenwarden_host.limits.journal import Journal
    from xenwarden_host.limits.kind import Kind
    from xenwarden_host.protocols import Hypervisor
    from xenwarden_host.records import DomainInfo

OWNER = "hrem"
BALANCER = "balance"
PROBLEMS = (LimitError, HypervisorError, StoreError, JournalError)  # what a change can fail with

_MAX_INACTIVE = 1000  # VMs whose own values are remembered, in case they come back with ours

Id = tuple[str, LimitKind]


class Became(StrEnum):
    """What became of a grant."""

    SET = "set"  # read back as granted
    RETURNED = "returned"  # the VM has what it has of its own again
    OVERRULED = "overruled"  # somebody else changed it: that stays


@dataclass(frozen=True, slots=True)
class Change:
    """One grant that changed: what the VM has now, and what it has of its own."""

    id: Id
    became: Became
    has: int
    own: int


class GrantBook:
    """All grants, and all that is lent, by VM (UUID) and kind.

    Args:
        hypervisor: Xen.
        journal: of grants alone, apart from that of limits.
    """

    def __init__(self, hypervisor: Hypervisor, journal: Journal) -> None:
        self._journal = journal
        self._kinds: dict[LimitKind, Kind] = {
            LimitKind.MEMORY: Memory(hypervisor),
            LimitKind.VCPUS: Vcpus(hypervisor),
            LimitKind.WEIGHT: Weight(hypervisor),
        }
        self.wants: dict[Id, Want] = {}
        self.lent: dict[Id, Want] = {}
        for want in journal.wants():
            self._wants_of(want.owner)[want.uuid, want.key.kind] = want
        self._places: dict[Id, Place] = {(place.uuid, place.key.kind): place for place in journal.places()}
        self._set: set[Id] = set()

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def has(self, domain: DomainInfo, kind: LimitKind) -> int:
        """Return what the domain has now.

        Raises:
            LimitError, HypervisorError, StoreError: not to be known.
        """
        return int(self._kinds[kind].read(domain)[""] or 0)

    def own(self, id_: Id, has: int) -> int:
        """Return what the VM has of its own, of the `has` that it has now."""
        place = self._places.get(id_)
        return int(place.original or 0) if place is not None and place.active else has

    def unsettled(self) -> set[Id]:
        """Return what is to be the VM's own again, and has not been read back as that."""
        return {i for i, place in self._places.items() if place.active} - self.wants.keys() - self.lent.keys()

    def own_text(self, uuid: str, kind: LimitKind, text: str | None) -> str | None:
        """Return what would stand there without the balancer, where `text` does now."""
        place = self._places.get((uuid, kind))
        lent = place is not None and place.active and (uuid, kind) not in self.wants
        return place.original if place and lent and text in (place.applied, place.intended) else text

    def grant(self, id_: Id, value: int, why: str, unix_s: float) -> None:
        """Have the VM have `value` in all, from the next `reconcile` on. What it was lent is part of it.

        Raises:
            JournalError: nothing changed.
        """
        self._want(id_, OWNER, value, why, unix_s)
        self.end_lent(id_)

    def lend(self, id_: Id, value: int, why: str, unix_s: float) -> None:
        """Have the VM have `value` in all, more or less than its own, from the next `reconcile` on.

        Raises:
            JournalError: nothing changed.
        """
        self._want(id_, BALANCER, value, why, unix_s)

    def end(self, id_: Id) -> None:
        """Have the VM have its own again, from the next `reconcile` on.

        Raises:
            JournalError: nothing changed.
        """
        self._drop(id_, self.wants)

    def end_lent(self, id_: Id) -> None:
        """Let the balancer have nothing to say here, from the next `reconcile` on.

        Raises:
            JournalError: nothing changed.
        """
        self._drop(id_, self.lent)

    def _wants_of(self, owner: str) -> dict[Id, Want]:
        return self.lent if owner == BALANCER else self.wants

    def _want(self, id_: Id, owner: str, value: int, why: str, unix_s: float) -> None:
        want = Want(id_[0], LimitKey(id_[1]), owner, value, why, unix_s, None)
        self._journal.save(put=[want])
        self._wants_of(owner)[id_] = want
        self._set.discard(id_)

    def _drop(self, id_: Id, wants: dict[Id, Want]) -> None:
        want = wants.get(id_)
        if want is not None:
            self._journal.save(drop=[want])
            del wants[id_]
            self._set.discard(id_)

    def reconcile(
        self,
        domains: Mapping[str, DomainInfo],
        limited: Collection[Id],
        failed: Callable[[Id, Exception], None],
    ) -> list[Change]:
        """Bring the host to what is granted; one that fails is told to `failed` and stops no other.

        Args:
            domains: the running domain of each VM.
            limited: on what limits stand; it is left alone.
            failed: what cannot be read or changed now; it is tried again.
        """
        changes = []
        for id_ in list(self.wants.keys() | self.lent.keys() | self._places.keys()):
            domain, place = domains.get(id_[0]), self._places.get(id_)
            due = (
                id_ in self.wants
                or id_ in self.lent
                or (place and (place.active or (domain and place.domid != domain.domid)))
            )
            if not due or (domain and (domain.dying or domain.cpu_time_s == 0 or id_ in limited)):
                continue
            try:
                change = self._bring(id_, domain) if domain else self._gone(id_)
            except PROBLEMS as problem:
                failed(id_, problem)
            else:
                changes += [change] if change else []
        return changes

    def _bring(self, id_: Id, domain: DomainInfo) -> Change | None:
        kind, want = self._kinds[id_[1]], self.wants.get(id_) or self.lent.get(id_)
        text = kind.read(domain)[""]
        known = self._places.get(id_)
        if known is None:
            known = Place(id_[0], LimitKey(id_[1]), "", False, text, text, text, (), domain.domid)
        place, whose = judge(known, text, domain.domid)
        if whose is Whose.ADMIN:
            self.end(id_)
            self.end_lent(id_)
            self._close(place, text)
            return Change(id_, Became.OVERRULED, int(text or 0), int(text or 0))
        target = str(want.value) if want is not None else place.original
        place = intend(place, target, wanted=want is not None)
        self._put(place)
        if text != target:
            kind.write(domain, {"": target})
            text = kind.read(domain)[""]
        if text != target:
            return None  # begun: it is read back at the next turn
        own = int(place.original or 0)
        if want is None:
            self._close(place, text)
            return Change(id_, Became.RETURNED, own, own) if known.active or place.active else None
        if id_ in self._set:
            return None
        self._put(replace(place, applied=text))
        self._set.add(id_)
        return Change(id_, Became.SET, want.value, own)

    def _gone(self, id_: Id) -> Change | None:
        """End what was granted to a VM that does not run; what it may come back with stays known."""
        place = self._places.get(id_)
        self.end(id_)
        self.end_lent(id_)
        if place is not None and place.active:
            self._close(place, place.original)
        return None

    def _close(self, place: Place, original: str | None) -> None:
        self._put(replace(place, active=False, original=original, applied=original, intended=original))
        inactive = [id_ for id_, known in self._places.items() if not known.active]
        for id_ in inactive[: max(0, len(inactive) - _MAX_INACTIVE)]:
            self._journal.save(drop=[self._places.pop(id_)])

    def _put(self, place: Place) -> None:
        id_ = (place.uuid, place.key.kind)
        if self._places.get(id_) != place:
            self._journal.save(put=[place])
            self._places[id_] = place
