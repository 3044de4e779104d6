# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tick: list, read, collect, decide, apply, reconcile, write. A part that fails stops no other."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from xenwarden_channel import paths, signals
from xenwarden_host import audit
from xenwarden_host.daemon import views
from xenwarden_host.daemon.apply import Applier
from xenwarden_host.daemon.balance import BalanceDesk
from xenwarden_host.daemon.desk import Tools
from xenwarden_host.daemon.grantdesk import GrantDesk
from xenwarden_host.daemon.keeper import Keeper
from xenwarden_host.daemon.ledger import Ledger
from xenwarden_host.daemon.operator import Operator
from xenwarden_host.daemon.orders import Orders
from xenwarden_host.daemon.samples import Samples
from xenwarden_host.daemon.storeuse import StoreUse
from xenwarden_host.errors import LimitError, XenwardenError
from xenwarden_host.hrem.overflow import Overflows
from xenwarden_host.hrem.sprawl import Idle
from xenwarden_host.policy.model import FailSafe
from xenwarden_host.records import AgentState, Level, LimitKind, Snapshot, VmState
from xenwarden_host.replay.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from xenwarden_host.audit import Audit
    from xenwarden_host.daemon.killswitch import KillSwitch
    from xenwarden_host.daemon.tracker import Guest, Tracker
    from xenwarden_host.database import Database
    from xenwarden_host.hrem.grantbook import GrantBook
    from xenwarden_host.hrem.history import History
    from xenwarden_host.hrem.hrem import Hrem
    from xenwarden_host.hrem.tracing import Tracing
    from xenwarden_host.hsem.hsem import Hsem
    from xenwarden_host.limits.engine import LimitEngine
    from xenwarden_host.limits.journal import Journal
    from xenwarden_host.policy.model import Policy
    from xenwarden_host.protocols import Clock, Hypervisor, Store, VifControl
    from xenwarden_host.records import DomainInfo, VmView

log = logging.getLogger("xenwarden")

_BRIEF = tuple(signals.names(signals.VSEM, signals.VREM))  # what an agent can compare with
_HISTORY_EVERY_S = 60.0  # a guest's brief history changes slowly
_HISTORY_SPREAD_S = 30
_COMPLAIN_EVERY_S = 60.0
_THROTTLED_S = 60.0  # writes that a held transaction slows down still come more often than this
_SETTLE_S = 10.0  # after domains came or went, limits of new ones are looked after between ticks too
_STALL_S = 5.0  # a tick later than this: the daemon was starved, or the machine slept


class Warden:
    """All parts of the daemon, and what one tick does with them."""

    def __init__(
        self,
        *,
        policy: Policy,
        tracker: Tracker,
        history: History,
        hrem: Hrem,
        hsem: Hsem,
        engine: LimitEngine,
        grants: GrantBook,
        hypervisor: Hypervisor,
        store: Store,
        vifs: VifControl,
        journal: Journal,
        database: Database,
        audit_log: Audit,
        kill_switch: KillSwitch,
        clock: Clock,
        tracing: Tracing,
        dry_run: bool,
    ) -> None:
        self.tracker = tracker
        self.history = history
        self.hrem = hrem
        self.hsem = hsem
        self.engine = engine
        self.database = database
        self._vifs = vifs
        self.hypervisor = hypervisor
        self._journal = journal
        self.audit = audit_log
        self.kill_switch = kill_switch
        self.clock = clock
        self.tracing = tracing
        self.dry_run = dry_run
        self.ledger = Ledger(clock)
        self.applier = Applier(engine, self.ledger, audit_log, dry_run=dry_run)
        tools = Tools(
            book=grants,
            hypervisor=hypervisor,
            store=store,
            clock=clock,
            audit=audit_log,
            status=hsem.state,
            signals=self.known_signals,
        )
        self.desk = GrantDesk(policy, tools)
        self.balance = BalanceDesk(policy, tools)
        self.overflows = Overflows(policy, history)
        self.idle = Idle()
        self.store_use = StoreUse(store, clock, audit_log)
        self.samples = Samples()
        self.signals: dict[str, dict[str, float]] = {}  # HREM's of the last tick, by UUID
        self.ticks = 0
        self.errors: Counter[str] = Counter()
        self.started_s = clock.monotonic()
        self._domains: list[DomainInfo] = []
        self._last_tick_s = self.started_s
        self._settle_until_s = self.started_s
        self._keeper = Keeper(
            database, clock, tracker=tracker, history=history, hsem=hsem, ledger=self.ledger, idle=self.idle
        )
        self._next_complaint_s: dict[str, float] = {}
        self.publish_recording: Callable[[list[str]], bool] = lambda _lines: False
        self.take_policy_nodes: Callable[[dict[str, bytes]], None] = lambda _nodes: None
        self._recorder: Recorder | None = None
        self.operator = Operator(self)
        self.set_policy(policy)

    def set_policy(self, policy: Policy) -> None:
        """Work by this policy from now on."""
        self.policy = policy
        self._orders = Orders(policy)
        self.hsem.policy = policy
        self.overflows.set_policy(policy)
        self.desk.policy = policy
        self.balance.set_policy(policy)
        for guest in self.tracker.guests.values():
            guest.next_history_s = float("-inf")  # priors may have changed

    def listen(self) -> bool:
        """Take what the store has to say between ticks; return whether a tick should not wait."""
        raised = False

        def read() -> None:
            nonlocal raised
            self.tracker.drain()
            if self.tracker.domains_changed:
                self._list()
            self._doubt_disks()
            raised = self.tracker.read()

        self._guard("store", read)
        self._guard("policy", self._read_policy_nodes)
        return raised

    def _read_policy_nodes(self) -> None:
        if (nodes := self.tracker.read_policy()) is not None:
            self.take_policy_nodes(nodes)

    def settling(self) -> bool:
        """Tell whether limits should be looked after before the next tick."""
        now_s = self.clock.monotonic()
        return not self.dry_run and now_s < self._settle_until_s and bool(self.engine.status())

    def settle(self) -> None:
        """Limit a VM that is to be limited and has a new domain: migrated, restored, rebooted.

        Nothing tells of a domain's first turn on a CPU, nor of its disks being connected.
        """

        def look() -> None:
            self._list()
            self._doubt_disks()
            if self.engine.unsettled(self._domains):
                self.reconcile(self.tracker.vms())

        self._guard("limits", look)

    def _doubt_disks(self) -> None:
        """Have limits on disks that were connected anew be looked after: their threads are new, and free."""
        domids, self.tracker.disks_changed = self.tracker.disks_changed, set()
        self.engine.doubt(domids, LimitKind.VBD_IO)
        if domids and self.engine.unsettled(self._domains):
            self._settle_until_s = self.clock.monotonic() + _SETTLE_S

    def fail_safe(self) -> None:
        """Lift the limits that the policy does not want to outlive the daemon."""
        self._guard("limits", self._lift_unkept)

    def _lift_unkept(self) -> None:
        vms = self.tracker.vms()
        for uuid in {status.uuid for status in self.engine.status()}:
            name = vms[uuid].info.name if uuid in vms else ""
            if self.policy.vm(uuid, name).fail_safe is FailSafe.RELEASE:
                self.engine.lift_all(uuid)
        self.reconcile(vms)
        self.desk.take_back(
            vms,
            [
                u
                for u, guest in vms.items()
                if self.policy.vm(u, guest.info.name).fail_safe is FailSafe.RELEASE
            ],
        )

    def restore(self) -> None:
        """Take over what an earlier daemon kept, and end what it left."""
        self._guard("trace", self.tracing.stop_left)
        self._keeper.restore()

    def save(self, *, all_of_it: bool = False) -> None:
        """Keep what a restart needs, `all_of_it` or what is due; a failure is told and survived."""
        if not self.dry_run:
            self._guard("database", lambda: self._keeper.save(all_of_it=all_of_it))

    def close(self) -> None:
        """Close the database, the journals and what HREM reads."""
        self.hrem.close()
        self.desk.book.close()
        self._journal.close()
        self.database.close()

    # --- one tick --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do one tick. Never raises."""
        now_s = self.clock.monotonic()
        if now_s - self._last_tick_s > _STALL_S:
            self.tracker.excuse()
        self._last_tick_s = now_s
        self.ticks += 1
        self._guard("kill-switch", self._look_at_kill_switch)
        self._guard("store", self.tracker.drain)
        self._guard("limits", self._doubt_disks)
        if not self._guard("domains", self._list):
            return  # without the list nothing may be decided or set: domids could be others by now
        self._guard("store", self.tracker.read)
        self._guard("policy", self._read_policy_nodes)
        self._guard("store-use", self._look_at_store_use)
        vms = self.tracker.vms()
        self._guard("hrem", lambda: self._collect(now_s, vms))
        self._guard("hsem", lambda: self._decide(now_s, vms))
        if not self.dry_run:
            self._guard("grants", lambda: self._grant(vms))
            self._guard("limits", lambda: self.reconcile(vms))
        self._guard("channel", lambda: self._tell_guests(now_s))
        self._guard("samples", lambda: self._note_samples(vms))
        if self._keeper.due():
            self._guard("limits", lambda: self._lift_forgotten(vms))
            self.save()

    def _guard(self, where: str, step: Callable[[], object]) -> bool:
        """Run a step; log and count what it raises, at most one line a minute for each place."""
        try:
            step()
        except Exception:
            self.errors[where] += 1
            now_s = self.clock.monotonic()
            if now_s >= self._next_complaint_s.get(where, 0.0):
                self._next_complaint_s[where] = now_s + _COMPLAIN_EVERY_S
                log.exception("event=error where=%s count=%d", where, self.errors[where])
            return False
        return True

    def _list(self) -> None:
        if self.tracker.domains_changed:
            self._settle_until_s = self.clock.monotonic() + _SETTLE_S
        self._domains = self.tracker.refresh()

    def _look_at_store_use(self) -> None:
        if self.tracker.store_lost:
            return
        self.store_use.look(self.tracker.guests)
        if suspects := self.store_use.suspects():
            self.tracker.excuse(but=suspects, longest_s=_THROTTLED_S)

    def _look_at_kill_switch(self) -> None:
        file = self.kill_switch.engaged_by()
        if (file is not None) == self.applier.killed:
            return
        self.applier.set_killed(file is not None)
        on = f"kill switch on ({file}): all limits are released and none is set"
        self.audit.record(
            "kill-switch",
            who=audit.DAEMON,
            text=on if file else "kill switch off: what HSEM wants is set again",
            level=logging.WARNING,
            on=file is not None,
        )

    def _collect(self, now_s: float, vms: Mapping[str, Guest]) -> None:
        infos = [guest.info for guest in vms.values()]
        self.signals = self.hrem.collect(infos, now_s, self._police_drops(infos))
        arp = self.tracker.arp.taken()
        for guest in vms.values():
            if guest.info.domid in self.tracker.headers.wanted:
                seen = self.tracker.headers.signals(guest.info.domid, now_s, self.policy.levels.level2_s)
                self.signals[guest.info.uuid].update(seen)
            if guest.info.domid in arp:
                self.signals[guest.info.uuid].update(arp[guest.info.domid])
            if guest.inbox.asked_s:
                self.signals[guest.info.uuid]["ask_ps"] = guest.inbox.ask_ps(now_s)
        if not self.dry_run:
            self._guard("trace", lambda: self._trace(now_s, vms))
        self.idle.note(self.signals, self.policy.sprawl, self.clock.unix())

    def _trace(self, now_s: float, vms: Mapping[str, Guest]) -> None:
        """Have HREM trace what watched VMs ask of Xen, and take what it saw."""
        watched = self._suspects(vms.values()) if self.policy.watch.trace else []
        cpus_used = {
            guest.info.domid: self.signals[guest.info.uuid].get("vcpu_pct", 0.0)
            * guest.info.vcpus_online
            / 100
            for guest in watched
        }
        self.tracing.tick(cpus_used, now_s)
        for guest in watched:
            self.signals[guest.info.uuid].update(self.tracing.signals(guest.info.domid, now_s))

    def _suspects(self, guests: Iterable[Guest]) -> list[Guest]:
        """Return those whose VMs HSEM has ordered to level 2."""
        return [
            guest
            for guest in guests
            if not guest.info.service and self.applier.ordered.get(guest.info.uuid) is Level.TWO
        ]

    def _note_samples(self, vms: Mapping[str, Guest]) -> None:
        self.samples.note(self.clock.unix(), {uuid: self.signals_of(guest) for uuid, guest in vms.items()})

    def signals_of(self, guest: Guest) -> dict[str, float]:
        """Return all signals of a VM as they were last measured, by its agent and by dom0."""
        report = guest.inbox.report
        return {**(report.signals if report else {}), **self.signals.get(guest.info.uuid, {})}

    def _police_drops(self, infos: Sequence[DomainInfo]) -> dict[str, int]:
        """Return by UUID what packet limits dropped; asked only while there is such a limit."""
        limited = [
            info
            for info in infos
            if any(key.kind is LimitKind.VIF_PPS for key in self.engine.held(info.uuid))
        ]
        if not limited:
            return {}
        try:
            drops = self._vifs.police_drops()
        except LimitError:
            self.errors["police-drops"] += 1
            return {}
        return {info.uuid: drops[info.domid] for info in limited if info.domid in drops}

    def _decide(self, now_s: float, vms: dict[str, Guest]) -> None:
        snapshot = self._snapshot(now_s, vms)
        for view in snapshot.vms:
            self._note_answer(view)
            self._note_level(view.uuid, view.name, reported=view.report.level if view.report else 1)
        here = {view.uuid for view in snapshot.vms}
        if self._recorder is not None:
            self._guard("recording", lambda: self._record(snapshot))
        actions = self.hsem.decide(self.overflows.find(snapshot))
        self.applier.begin(here)
        self.applier.apply(actions, vms)
        self.applier.finish(here)
        if actions and not self.dry_run:
            # Before the host is changed: what was decided must not be forgotten by a crash.
            self._guard("database", self._keeper.save_decisions)

    def _record(self, snapshot: Snapshot) -> None:
        if self._recorder is not None and not self.publish_recording(self._recorder.tick(snapshot)):
            self._recorder = None  # nobody takes it any more

    def start_recording(self, who: str) -> str:
        """Have all that enters the core from the next tick on published; return the recording's header.

        Raises:
            XenwardenError: one goes on already: two would each get what is new to the other only.
        """
        if self._recorder is not None and self.publish_recording([]):
            raise XenwardenError("a recording goes on already", hint="end it first")
        self._recorder = Recorder(
            self.clock.monotonic(),
            self.clock.unix(),
            self.hsem.dump(),
            {uuid: self.history.dump(uuid) for uuid in self.history.uuids()},
            self.overflows.dump(),
        )
        self.audit.record("recording", who=who, text=f"recording begun by {who.partition(':')[2]}")
        return self._recorder.header()

    def note_order(self, line: Callable[[Recorder], str]) -> None:
        """Have an operator's order in the recording, while there is one."""
        if self._recorder is not None:
            self.publish_recording([line(self._recorder)])

    def _snapshot(self, now_s: float, vms: dict[str, Guest]) -> Snapshot:
        return views.build(
            vms,
            now_s=now_s,
            unix_s=self.clock.unix(),
            level1_s=self.policy.levels.level1_s,
            level2_s=self.policy.levels.level2_s,
            known_s=self.tracker.known_s,
            signals=self.signals,
            held=self.engine.held,
        )

    def _note_level(self, uuid: str, name: str, *, reported: int) -> None:
        """Note the level that a VM is at: HSEM's order, or the agent's own word that it went up."""
        level = max(self.applier.ordered.get(uuid, Level.ONE), Level(reported))
        if self.ledger.note_level(uuid, level):
            self.audit.record(
                "level",
                who=audit.DAEMON,
                text=f"{name} is at level {int(level)}",
                uuid=uuid,
                name=name,
                to=int(level),
            )

    def _lift_forgotten(self, vms: Mapping[str, Guest]) -> None:
        self.applier.lift_forgotten(vms, lambda uuid: self.hsem.state(uuid) is not VmState.NORMAL)

    def _note_answer(self, view: VmView) -> None:
        """Note an answer of VREM's that is new; one to a question that was not asked is none."""
        answer = view.answer
        asked = self.applier.asked.get(view.uuid)
        if answer is None or answer.ask_id != asked:
            return
        del self.applier.asked[view.uuid]
        near = f"close to its maximum in {answer.near_max} of {answer.near_max_of} intervals"
        self.audit.record(
            "answer",
            who=audit.DAEMON,
            text=f"{view.name} answered: load {answer.load_pct:.0f} %, {near}",
            uuid=view.uuid,
            name=view.name,
            id=answer.ask_id,
            load_pct=answer.load_pct,
        )

    def reconcile(self, vms: dict[str, Guest]) -> None:
        """Bring what stands on the host to what is wanted now."""
        if self.applier.killed:
            self.engine.lift_all(None)
        for uuid, guest in vms.items():
            if self.policy.vm(uuid, guest.info.name).exempt:
                self.engine.lift_all(uuid)
        self.applier.note_changes(self.engine.reconcile(self._domains), vms)

    def _grant(self, vms: dict[str, Guest]) -> None:
        """Have HREM balance and deal with requests for more; before the limits, which stand above both."""
        limited = {(status.uuid, status.key.kind) for status in self.engine.status()}
        self._guard("balance", lambda: self.balance.tick(vms, limited, killed=self.applier.killed))
        self.desk.tick(vms, limited, killed=self.applier.killed)

    def known_signals(self, guest: Guest) -> dict[str, float]:
        """Return what is known of a VM: of its own word only what an agent that speaks has said."""
        report = guest.inbox.report
        said = report.signals if report is not None and self.agent_state(guest) is AgentState.ALIVE else {}
        return {**said, **self.signals.get(guest.info.uuid, {})}

    def _tell_guests(self, now_s: float) -> None:
        for guest in self.tracker.guests.values():
            uuid = guest.info.uuid
            level = self.applier.ordered.get(uuid, Level.ONE)
            guest.down.want(paths.DOWN_ORDER, self._orders.order(guest.info, level))
            status = self.hsem.state(uuid), self.engine.held(uuid)
            if guest.status != status:
                guest.status = status
                held = ",".join(sorted(map(str, status[1])))
                guest.down.want(paths.DOWN_STATUS, {"state": str(status[0]), "limits": held})
            if now_s >= guest.next_history_s:
                # Not all at once: this is the most costly thing that is done for a guest.
                guest.next_history_s = now_s + _HISTORY_EVERY_S - guest.info.domid % _HISTORY_SPREAD_S
                brief = self.history.brief(uuid, _BRIEF)
                fields = {"learnt": "1" if brief.learnt else "0", **brief.upper}
                guest.down.want(paths.DOWN_HISTORY, fields)
        self._order_looks(now_s)
        self.tracker.write()

    def _order_looks(self, now_s: float) -> None:
        """Have dom0's own agent look at the VMs of level 2, first at those whose own agent does not speak."""
        dom0 = self.tracker.guests.get(0)
        if dom0 is None:
            return
        suspects = self._suspects(self.tracker.guests.values())
        suspects.sort(key=lambda guest: self.agent_state(guest) is AgentState.ALIVE)
        order = self.tracker.headers.want([guest.info.domid for guest in suspects], now_s)
        if order is not None:
            dom0.down.want(paths.DOWN_LOOK, order)
            dom0.down.again(paths.DOWN_LOOK)

    def agent_state(self, guest: Guest) -> AgentState:
        """Return how dom0 stands with a guest's agent now."""
        return guest.inbox.state(
            self.clock.monotonic(), level1_s=self.policy.levels.level1_s, level2_s=self.policy.levels.level2_s
        )

    def notices(self) -> list[str]:
        """Return what an admin should know beyond the VMs."""
        out = list(self.database.notices)
        file = self.kill_switch.engaged_by()
        if file is not None:
            out.append(f"the kill switch is on ({file}): no limit is set")
        if self.dry_run:
            out.append("xenwardend runs with --dry-run: it decides and changes nothing")
        if self.tracker.store_lost:
            out.append("no connection to xenstored: agents cannot be heard, limits are kept")
        out += self.store_use.notices(self.tracker.guests)
        if self.audit.lost:
            out.append(
                f"{self.audit.lost} audit entries are in the log only: the database could not be written"
            )
        return out
