# SPDX-License-Identifier: LGPL-2.1-or-later
"""The limit engine: brings each VM to exactly what was decided, or back to exactly what was there.

What is decided is kept per VM (its UUID), kind and rank of who decided. `reconcile` compares that with
the host and changes it in four steps: read all, commit what was found and what is to be written to the
journal, write, read back. A crash between any two of them leaves a journal from which the next run ends
in the same place, since what stands at a place is then one of three known texts: the original, what was
last seen of ours, and what was to be written.

Anything else was set by somebody else. On the same domain that is an admin's word: it becomes the value
to restore, and the stricter of both holds until then. On a new domain of the VM (migration, restore,
reboot), which may carry along what we had set, each text that we ever set there is ours as well.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xenwarden_channel.errors import StoreError
from xenwarden_host.errors import DomainGoneError, HypervisorError, LimitError, XenwardenError
from xenwarden_host.limits import told
from xenwarden_host.limits.book import PRECEDENCE, Book
from xenwarden_host.limits.cap import Cap
from xenwarden_host.limits.journal import NO_DOMID, Want, rank_of
from xenwarden_host.limits.memory import Memory
from xenwarden_host.limits.pause import Pause
from xenwarden_host.limits.place import Place, Whose, intend, judge
from xenwarden_host.limits.vbd_io import VbdIo
from xenwarden_host.limits.vcpus import Vcpus
from xenwarden_host.limits.vif_in import VifIn
from xenwarden_host.limits.vif_pps import VifPps
from xenwarden_host.limits.vif_rate import VifRate
from xenwarden_host.limits.weight import Weight
from xenwarden_host.records import LimitKey, LimitKind, LimitState, LimitStatus, PacketClass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from xenwarden_host.limits.book import Id
    from xenwarden_host.limits.journal import Journal
    from xenwarden_host.limits.kind import Kind, Text
    from xenwarden_host.protocols import Clock, Hypervisor, VbdControl, VifControl
    from xenwarden_host.records import DomainInfo

_log = logging.getLogger("xenwarden.limits")


# States that do not change by themselves: a kind that is costly to read is not asked at every turn.
_STANDS = (LimitState.SET, LimitState.UNSUPPORTED)

# A kernel that lacks a module looks for it each time that it is asked.
_UNSUPPORTED_S = 15.0
_NO_LIMITS: frozenset[LimitKey] = frozenset()


@dataclass(frozen=True, slots=True)
class _Job:
    """One limit in one reconciling: what stands at its places, and what is to."""

    id: Id
    kind: Kind
    domain: DomainInfo
    want: Want | None
    current: Mapping[str, Text]
    places: Mapping[str, Place]

    def writes(self) -> dict[str, Text]:
        """Return what has to be changed."""
        return {name: p.intended for name, p in self.places.items() if p.intended != self.current[name]}


class LimitEngine:
    """Decided limits, applied.

    Args:
        hypervisor: Xen.
        vifs: the domains' vifs.
        journal: where wants and originals are kept; read once, here.
        clock: for time to live, and for when a value was last read back.
        vbds: the domains' disks; without it there is no limit on them.
        own: what would stand there without the balancer, where this text does.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        vifs: VifControl,
        journal: Journal,
        clock: Clock,
        vbds: VbdControl | None = None,
        own: Callable[[str, LimitKind, Text], Text] = lambda _uuid, _kind, text: text,
    ) -> None:
        self._clock = clock
        self._own = own
        self._kinds: dict[LimitKey, Kind] = {
            LimitKey(LimitKind.CAP): Cap(hypervisor),
            LimitKey(LimitKind.WEIGHT): Weight(hypervisor),
            LimitKey(LimitKind.PAUSE): Pause(hypervisor),
            LimitKey(LimitKind.MEMORY): Memory(hypervisor),
            LimitKey(LimitKind.VCPUS): Vcpus(hypervisor),
            LimitKey(LimitKind.VIF_RATE): VifRate(vifs),
            LimitKey(LimitKind.VIF_IN): VifIn(vifs),
            **{LimitKey(LimitKind.VIF_PPS, c): VifPps(vifs, c) for c in PacketClass},
        }
        if vbds is not None:
            self._kinds[LimitKey(LimitKind.VBD_IO)] = VbdIo(vbds)
        self._book = Book(journal)
        self._status: dict[str, dict[LimitKey, LimitStatus]] = {}
        self._checked: dict[Id, tuple[int, int, float]] = {}  # domid, value, when
        self._decided: dict[Id, float] = {}  # when, of what was not yet read back as set

    # --- what is decided ---

    def want(
        self, uuid: str, key: LimitKey, value: int, owner: str, why: str, expires_unix_s: float | None = None
    ) -> None:
        """Decide a limit, in place of this rank's earlier word; the next `reconcile` journals and sets it.

        Args:
            uuid: of the VM, which need not run now.
            key: what is limited.
            value: in the unit of the kind, above 0; of packets 0 is a limit, too.
            owner: `hsem`, `hrem` or `operator:NAME`.
            why: one sentence.
            expires_unix_s: when it lapses by itself.

        Raises:
            LimitError: the value is no limit, or the kind or owner is unknown.
        """
        if key not in self._kinds or rank_of(owner) not in PRECEDENCE:
            raise LimitError(f"there is no limit {key} of {owner}", LimitState.UNSUPPORTED)
        if value < (key.kind is not LimitKind.VIF_PPS):
            raise LimitError(f"{key} {value} is no limit: lift it instead", LimitState.UNSUPPORTED)
        new = Want(uuid, key, owner, value, why, self._clock.unix(), expires_unix_s)
        old = self._book.wants.get((uuid, key), {}).get(new.rank)
        if old is not None and replace(new, since_unix_s=old.since_unix_s) == old:
            return
        self._book.put(new)
        if old is None or old.value != value:
            self._decided[uuid, key] = self._clock.monotonic()
        _log.debug(
            "event=limit-wanted uuid=%s key=%s value=%d owner=%s was=%s why=%r",
            *(uuid, key, value, owner, old.value if old else "-", why),
        )

    def lift(self, uuid: str, key: LimitKey, owner: str) -> None:
        """Take back what `owner`'s rank decided; nothing happens where there is none."""
        want = self._book.wants.get((uuid, key), {}).get(rank_of(owner))
        self._take_back([want] if want else [], owner)

    def lift_all(self, uuid: str | None, owner: str | None = None) -> None:
        """Take back everything: of one VM or of all (None), of one owner's rank or of all (None)."""
        wants = [
            want
            for want in self._book.all_wants()
            if uuid in (None, want.uuid) and (owner is None or want.rank == rank_of(owner))
        ]
        self._take_back(wants, owner or "everybody")

    def _take_back(self, wants: list[Want], by: str) -> None:
        for want in wants:
            self._book.drop(want)
            self._decided.pop((want.uuid, want.key), None)
            _log.debug(
                "event=limit-unwanted uuid=%s key=%s was=%d owner=%s by=%s",
                *(want.uuid, want.key, want.value, want.owner, by),
            )
        if wants:
            self._book.flush()

    # --- what stands ---

    def wanted(self, owner: str, uuid: str | None = None) -> list[Want]:
        """Return what `owner`'s rank decided, of one VM or of all, whether or not it is what counts."""
        rank = rank_of(owner)
        return [w for w in self._book.all_wants() if w.rank == rank and uuid in (None, w.uuid)]

    def status(self, uuid: str | None = None) -> list[LimitStatus]:
        """Return every limit that is wanted or not yet taken back, of one VM or of all."""
        known = {(s.uuid, s.key): s for by_key in self._status.values() for s in by_key.values()}
        for id_ in self._book.wants:
            want = self._book.want(id_)
            if id_ not in known and want is not None:
                known[id_] = told.describe(want, {}, LimitState.PENDING, "not set yet")
        return [known[id_] for id_ in sorted(known, key=_order) if uuid in (None, id_[0])]

    def held(self, uuid: str) -> frozenset[LimitKey]:
        """Return the VM's limits that are set and were read back as set."""
        by_key = self._status.get(uuid)
        if not by_key:  # asked of all VMs at each tick
            return _NO_LIMITS
        return frozenset(key for key, status in by_key.items() if status.state is LimitState.SET)

    def unsettled(self, domains: Sequence[DomainInfo]) -> bool:
        """Tell whether a VM has a domain on which a limit that is wanted was not yet read back as set."""
        running = _running(domains)
        return any(
            uuid in running and self._checked.get((uuid, key), (None,))[0] != running[uuid].domid
            for uuid, key in self._book.wants
        )

    def doubt(self, domids: Collection[int], kind: LimitKind) -> None:
        """Forget that limits of this kind were read back on these domains."""
        for id_ in [id_ for id_, at in self._checked.items() if at[0] in domids and id_[1].kind is kind]:
            del self._checked[id_]

    # --- bringing the host there ---

    def reconcile(self, domains: Sequence[DomainInfo]) -> list[LimitStatus]:
        """Bring the host to what is decided and read it back.

        Args:
            domains: all domains, as just listed.

        Returns:
            The status of each limit that changed since the last call, and each that was lifted. A domain
            that fails keeps no other from its limits.
        """
        self._expire()
        running = _running(domains)
        after: dict[Id, LimitStatus] = {}
        jobs: list[_Job] = []
        for id_ in self._due(running):
            outcome = self._observe(id_, running.get(id_[0]))
            if isinstance(outcome, _Job):
                jobs.append(outcome)
            elif outcome is not None:
                after[id_] = outcome
        saved = self._book.flush()
        # All are written before the first is read back: what limits traffic does not wait for a reading.
        written = [(job, self._write(job, saved=saved)) for job in jobs]
        for job, problem in written:
            if problem is None:
                status = self._read_back(job)
            else:
                status = self._failed(job.id, job.want, problem, job.domain)
            if status is not None:
                after[job.id] = status
        self._book.forget_surplus()
        # What was read back is journalled at once: until then the text before it counts as ours as well,
        # and an admin who sets just that would not be heard. That matters only while the domain lives.
        self._book.flush(durable=False)
        events = [after[id_] for id_ in sorted(after, key=_order) if after[id_] != self._last(id_)]
        self._status = {}
        for (uuid, key), status in after.items():
            if status.state is not LimitState.LIFTED:
                self._status.setdefault(uuid, {})[key] = status
        return events

    def _expire(self) -> None:
        now = self._clock.unix()
        lapsed = [
            w for w in self._book.all_wants() if w.expires_unix_s is not None and w.expires_unix_s <= now
        ]
        self._take_back(lapsed, "its time to live")

    def _due(self, running: Mapping[str, DomainInfo]) -> list[Id]:
        """Return what is wanted, what is still to be taken back, and what a new domain may carry along."""
        due = set(self._book.wants)
        for id_, places in self._book.places.items():
            domain = running.get(id_[0])
            if any(p.active or (domain and p.domid != domain.domid) for p in places.values()):
                due.add(id_)
        return sorted(due, key=_order)

    def _observe(self, id_: Id, domain: DomainInfo | None) -> _Job | LimitStatus | None:
        """Read one limit's places and work out what is to stand there; changes memory, not the host."""
        want = self._book.want(id_)
        kind = self._kinds.get(id_[1])
        if kind is None:
            return self._failed(id_, want, LimitError("not on this host", LimitState.UNSUPPORTED))
        if domain is None:
            return self._without_domain(id_, kind, want)
        # What nobody else sets need not wait for the builder: it stands before the first packet.
        built = domain.cpu_time_s > 0 or kind.ours_alone
        if domain.service or domain.dying or not built:
            return self._untouchable(id_, want, domain)
        last = self._last(id_)
        if want and last and last.state in _STANDS and self._is_fresh(id_, kind, domain, want):
            return replace(
                last,
                owner=want.owner,
                why=want.why,
                since_unix_s=want.since_unix_s,
                until_unix_s=want.expires_unix_s,
            )
        try:
            current = kind.read(domain)
            places = {name: self._see(id_, kind, name, text, domain) for name, text in current.items()}
            self._close_lost(id_, kind, places, want)
            originals = {name: place.original for name, place in places.items()}
            target = kind.plan(domain, want.value, originals) if want else originals
        except (LimitError, HypervisorError, StoreError) as problem:
            return self._failed(id_, want, problem, domain)
        places = {name: intend(place, target[name], wanted=bool(want)) for name, place in places.items()}
        for place in places.values():
            self._book.put(place)
        if not any(place.active for place in places.values()):
            return None
        return _Job(id_, kind, domain, want, current, places)

    def _see(self, id_: Id, kind: Kind, name: str, text: Text, domain: DomainInfo) -> Place:
        """Return the place with what was found there, and tell where that was not what we left."""
        original = None if kind.ours_alone else self._own(id_[0], id_[1].kind, text)
        known = self._book.known(id_).get(name)
        if known is None:
            return Place(*id_, name, False, original, text, text, (), domain.domid)
        if kind.ours_alone:
            return replace(known, applied=text, domid=domain.domid)
        place, whose = judge(known, text, domain.domid)
        if whose is Whose.ORIGINAL and not known.active:
            place = replace(place, original=original)
        if whose in (Whose.ADMIN, Whose.CARRIED):
            _log.warning(
                "event=limit-found uuid=%s key=%s place=%r domid=%d whose=%s found=%r ours=%r original=%r",
                *(*id_, name, domain.domid, whose, text, known.applied, known.original),
            )
        return place

    def _write(self, job: _Job, *, saved: bool) -> XenwardenError | StoreError | None:
        """Change what has to be changed; return what went wrong."""
        writes = job.writes()
        if writes and job.want and not saved:
            sentence = "its original cannot be journalled, so nothing was changed"
            return LimitError(sentence, LimitState.FAILED)
        try:
            if writes:
                job.kind.write(job.domain, writes)
        except (LimitError, HypervisorError, StoreError) as problem:
            return problem
        return None

    def _read_back(self, job: _Job) -> LimitStatus | None:
        """Tell whether what was intended stands."""
        writes = job.writes()
        try:
            found = job.kind.read(job.domain) if writes else job.current
        except (LimitError, HypervisorError, StoreError) as problem:
            return self._failed(job.id, job.want, problem)
        wanted = {name: place.intended for name, place in job.places.items()}
        wrong = {name: found[name] for name in wanted if name in found and found[name] != wanted[name]}
        if wrong and job.kind.counted and job.want is None:
            return self._done(job, "still so by somebody else's word")
        if wrong:
            state = LimitState.PENDING if job.kind.takes_time else LimitState.FAILED
            verb = "asked for" if job.kind.takes_time else "set to"
            sentence = f"{verb} {told.words(wanted)}, read back as {told.words(wrong)}"
            status = self._failed(job.id, job.want, LimitError(sentence, state))
            return status and replace(status, read_back=told.words({**wanted, **wrong}))
        if writes:
            _log.debug(
                "event=limit-%s uuid=%s key=%s domid=%d was=%s now=%s",
                *(
                    "set" if job.want else "lifted",
                    *job.id,
                    job.domain.domid,
                    told.words(job.current),
                    told.words(wanted),
                ),
            )
        return self._done(job)

    def _done(self, job: _Job, detail: str = "") -> LimitStatus:
        """Note that what was intended stands."""
        if job.want is None:
            for place in job.places.values():
                self._release(job.kind, place)
            return self._lifted(job.id, job.places, detail)
        places = {name: replace(place, applied=place.intended) for name, place in job.places.items()}
        for place in places.values():
            self._book.put(place)
        self._note_checked(job.id, job.want, job.domain)
        stricter = all(place.intended == place.original for place in job.places.values())
        if stricter:
            detail = "what was there before is the stricter and stays"
        return replace(told.describe(job.want, places, LimitState.SET, detail), took_s=self._took_s(job.id))

    # --- where there is nothing to do, or it cannot be done ---

    def _without_domain(self, id_: Id, kind: Kind, want: Want | None) -> LimitStatus | None:
        """Keep what a wanted limit knows for when the VM comes back; close what is not wanted any more."""
        self._checked.pop(id_, None)
        places = self._book.known(id_)
        if want is not None:
            return told.describe(want, places, LimitState.NO_TARGET, "the VM does not run")
        active = {name: place for name, place in places.items() if place.active}
        for place in active.values():
            self._release(kind, replace(place, domid=NO_DOMID))
        return self._lifted(id_, active, "the VM does not run") if active else None

    def _untouchable(self, id_: Id, want: Want | None, domain: DomainInfo) -> LimitStatus | None:
        """Leave a domain alone that must not or cannot be judged yet."""
        if want is None:
            return None
        places = self._book.known(id_)
        if domain.service:
            return told.describe(want, places, LimitState.PROTECTED, f"{domain.name} serves other VMs")
        if domain.dying:
            # It may only be suspended, for a migration that fails or for a checkpoint, and come back.
            return told.describe(want, places, LimitState.NO_TARGET, "the domain is shut down")
        # Its builder sets scheduler parameters late: what stands there now is nobody's word.
        return told.describe(want, places, LimitState.PENDING, "the domain has not run yet")

    def _close_lost(self, id_: Id, kind: Kind, seen: Mapping[str, Place], want: Want | None) -> None:
        """End the limit at places that are no more, such as an unplugged vif; a wanted one waits for it."""
        for name, place in list(self._book.known(id_).items()):
            if name not in seen and place.active and want is None:
                self._release(kind, place)

    def _release(self, kind: Kind, place: Place) -> None:
        """End the limit at a place whose original stands again, or which is gone."""
        if kind.outlives_domain and place.texts:
            self._book.put(replace(place, active=False, applied=place.original, intended=place.original))
        else:
            self._book.drop(place)

    def _failed(
        self,
        id_: Id,
        want: Want | None,
        problem: XenwardenError | StoreError,
        domain: DomainInfo | None = None,
    ) -> LimitStatus | None:
        """Return the named state of what went wrong; None where nothing of ours is concerned."""
        if isinstance(problem, LimitError):
            state = LimitState(problem.state)
        else:
            state = LimitState.NO_TARGET if isinstance(problem, DomainGoneError) else LimitState.FAILED
        places = self._book.known(id_)
        if want is not None:
            if domain is not None and state is LimitState.UNSUPPORTED:
                self._note_checked(id_, want, domain)
            return told.describe(want, places, state, str(problem))
        if not any(place.active for place in places.values()):
            return None
        return replace(self._lifted(id_, places, f"not restored: {problem}"), state=state)

    # --- words ---

    def _last(self, id_: Id) -> LimitStatus | None:
        return self._status.get(id_[0], {}).get(id_[1])

    def _lifted(self, id_: Id, places: Mapping[str, Place], detail: str) -> LimitStatus:
        return told.lifted(id_, self._last(id_), places, detail, self._clock.unix())

    def _note_checked(self, id_: Id, want: Want, domain: DomainInfo) -> None:
        self._checked[id_] = (domain.domid, want.value, self._clock.monotonic())

    def _took_s(self, id_: Id) -> float | None:
        """Return how long what now stands had been decided when it was first read back."""
        decided, last = self._decided.pop(id_, None), self._last(id_)
        if decided is not None:
            return self._clock.monotonic() - decided
        return None if last is None else last.took_s

    def _is_fresh(self, id_: Id, kind: Kind, domain: DomainInfo, want: Want) -> bool:
        """Tell whether what is costly to find out was found out lately."""
        checked, last = self._checked.get(id_), self._last(id_)
        unsupported = last is not None and last.state is LimitState.UNSUPPORTED
        return (
            checked is not None
            and checked[:2] == (domain.domid, want.value)
            and self._clock.monotonic() - checked[2] < (_UNSUPPORTED_S if unsupported else kind.recheck_s)
        )


def _order(id_: Id) -> tuple[str, str]:
    return id_[0], str(id_[1])


def _running(domains: Sequence[DomainInfo]) -> dict[str, DomainInfo]:
    """Return the domain of each VM. While it migrates there are two: the one that runs, else the newer."""
    ordered = sorted(domains, key=lambda d: (not d.dying, d.cpu_time_s > 0, d.domid))
    return {domain.uuid: domain for domain in ordered}
