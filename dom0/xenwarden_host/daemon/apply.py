# SPDX-License-Identifier: LGPL-2.1-or-later
"""Carry out what HSEM decided: limits to the engine, orders to the guests, all to the audit log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, assert_never

from xenwarden_channel import paths
from xenwarden_host import audit
from xenwarden_host.daemon import words
from xenwarden_host.daemon.ledger import evidence_dict
from xenwarden_host.records import (
    Alert,
    Ask,
    Level,
    LiftLimit,
    LimitKey,
    LimitState,
    OrderLevel,
    SetLimit,
    Transition,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from xenwarden_host.audit import Audit
    from xenwarden_host.daemon.ledger import Ledger
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.limits.engine import LimitEngine
    from xenwarden_host.limits.journal import Want
    from xenwarden_host.records import Action, LimitStatus

log = logging.getLogger("xenwarden.apply")


class Applier:
    """Apply actions. `dry_run`: log them only. While `killed` HSEM's limits are kept in mind, not set."""

    def __init__(self, engine: LimitEngine, ledger: Ledger, audit_log: Audit, *, dry_run: bool) -> None:
        self._engine = engine
        self._ledger = ledger
        self._audit = audit_log
        self._dry_run = dry_run
        self._wanted: dict[tuple[str, LimitKey], tuple[int, str]] = {}  # HSEM's: value, why
        self._told: dict[tuple[str, LimitKey], tuple[LimitState, int]] = {}
        self._here: set[str] = set()  # VMs of the last tick
        self.asked: dict[str, int] = {}  # questions to VREM that are not answered yet
        self.ordered: dict[str, Level] = {}
        self.killed = False

    def apply(self, actions: Iterable[Action], vms: Mapping[str, Guest]) -> None:
        """Apply all actions; one that fails is logged and stops no other."""
        for action in actions:
            guest = vms.get(action.uuid)
            try:
                self._apply_one(action, guest, guest.info.name if guest else action.uuid)
            except Exception:
                log.exception("event=action-failed action=%s uuid=%s", type(action).__name__, action.uuid)

    def _apply_one(self, action: Action, guest: Guest | None, name: str) -> None:
        match action:
            case OrderLevel():
                self._order(action, name)
            case SetLimit():
                self._set(action, name)
            case LiftLimit():
                self._lift(action, name)
            case Ask():
                self.asked[action.uuid] = action.ask_id
                if guest is not None:
                    guest.down.want(paths.DOWN_ASK, {"id": str(action.ask_id), "what": "reliability"})
                self._record("ask", action.uuid, name, f"{name} asked how reliable it runs", id=action.ask_id)
            case Transition():
                self._transition(action, name)
            case Alert():
                self._record(
                    "alert",
                    action.uuid,
                    name,
                    action.text,
                    level=logging.WARNING,
                    what=action.what,
                    evidence=[evidence_dict(item) for item in action.evidence],
                )
            case _:
                assert_never(action)

    def _order(self, action: OrderLevel, name: str) -> None:
        if self.ordered.get(action.uuid, Level.ONE) != action.level:
            self.ordered[action.uuid] = action.level
            text = f"{name} ordered to level {int(action.level)}: {action.why}"
            self._record("order", action.uuid, name, text, ordered=int(action.level))

    def _set(self, action: SetLimit, name: str) -> None:
        key = (action.uuid, action.key)
        if key not in self._wanted and not self._dry_run:
            self._adopt(key)
        if key in self._wanted and self._wanted[key][0] == action.value:
            return
        self._wanted[key] = (action.value, action.why)
        if self.killed or self._dry_run:
            why_not = "the kill switch is on" if self.killed else "dry run"
            what, value = words.subject(action.key, name), words.amount(action.key, action.value)
            text = f"{what} would be limited to {value}, but {why_not}: {action.why}"
            self._record("limit-withheld", action.uuid, name, text, kind=str(action.key), value=action.value)
        else:
            self._engine.want(action.uuid, action.key, action.value, audit.HSEM, action.why)

    def _adopt(self, key: tuple[str, LimitKey]) -> None:
        """Take a limit as said that the engine remembers from an earlier daemon, with its reason."""
        for want in self._engine.wanted(audit.HSEM, key[0]):
            if want.key == key[1]:
                self._wanted[key] = (want.value, want.why)

    def _lift(self, action: LiftLimit, name: str) -> None:
        self._wanted.pop((action.uuid, action.key), None)
        if self._dry_run:
            text = f"limit {action.key} of {name} would be lifted, but dry run: {action.why}"
            self._record("limit-withheld", action.uuid, name, text, kind=str(action.key), value=None)
        elif not self.killed:
            self._engine.lift(action.uuid, action.key, audit.HSEM)

    def _transition(self, action: Transition, name: str) -> None:
        self._ledger.note_transition(action)
        self._record(
            "verdict" if action.verdict is not None else "state",
            action.uuid,
            name,
            f"{name} is {action.new}: {action.why}",
            level=logging.WARNING,
            old=str(action.old),
            new=str(action.new),
            verdict=None if action.verdict is None else str(action.verdict),
            also_victim=action.also_victim,
            evidence=[evidence_dict(item) for item in action.evidence],
        )

    def set_killed(self, killed: bool) -> None:
        """Release everything and set nothing, or have HSEM's limits stand again."""
        if self._dry_run or killed == self.killed:
            self.killed = killed
            return
        self.killed = killed
        if killed:
            self._engine.lift_all(None)
        else:
            for (uuid, key), (value, why) in self._wanted.items():
                self._engine.want(uuid, key, value, audit.HSEM, why)

    def note_changes(self, changes: Iterable[LimitStatus], vms: Mapping[str, Guest]) -> None:
        """Record what the engine's reconciling changed on the host; a new reason alone is no change."""
        for status in changes:
            told = (status.state, status.value)
            key = (status.uuid, status.key)
            if self._told.get(key) == told:
                continue
            self._told[key] = told
            guest = vms.get(status.uuid)
            name = guest.info.name if guest else status.uuid
            self._ledger.note_limit(status, still_held=bool(self._engine.held(status.uuid)))
            if status.state is LimitState.SET:
                event, level = "limit-set", logging.WARNING
            elif status.state is LimitState.LIFTED:
                event, level = "limit-lifted", logging.WARNING
                del self._told[key]
            else:
                event, level = "limit-failed", logging.ERROR
            self._audit.record(
                event,
                who=status.owner,
                text=words.limit_change(status, name),
                uuid=status.uuid,
                name=name,
                level=level,
                kind=str(status.key),
                value=status.value,
                original=status.original,
                state=str(status.state),
                why=status.why,
                detail=status.detail,
            )

    def forget(self, uuid: str) -> None:
        """Drop what is kept of HSEM's wishes for a VM."""
        for key in [key for key in self._wanted if key[0] == uuid]:
            del self._wanted[key]
        for key in [key for key in self._told if key[0] == uuid]:
            del self._told[key]

    def begin(self, uuids: Collection[str]) -> None:
        """Forget what was said of VMs that were not here at the last tick: HSEM says again what it wants."""
        self._here &= set(uuids)
        for uuid in set(uuids) - self._here:
            self.ordered.pop(uuid, None)
            self.asked.pop(uuid, None)
            self.forget(uuid)

    def finish(self, uuids: Collection[str]) -> None:
        """Lift what HSEM once wanted of VMs that are new here and did not say again.

        That was decided by an earlier daemon just before it died, or of a VM that was gone for so long that
        HSEM has forgotten it: nobody else would ever lift it.
        """
        if self._dry_run:
            return
        for uuid in set(uuids) - self._here:
            self._here.add(uuid)
            self._lift_unsaid(self._engine.wanted(audit.HSEM, uuid))

    def lift_forgotten(self, present: Collection[str], remembered: Callable[[str], bool]) -> None:
        """Lift what HSEM wanted of VMs that are gone and that it does not remember any more."""
        if not self._dry_run:
            wants = self._engine.wanted(audit.HSEM)
            gone = [want for want in wants if want.uuid not in present and not remembered(want.uuid)]
            for want in gone:
                self.forget(want.uuid)
            self._lift_unsaid(gone)

    def _lift_unsaid(self, wants: Iterable[Want]) -> None:
        for want in wants:
            if (want.uuid, want.key) not in self._wanted:
                log.warning("event=limit-orphaned uuid=%s key=%s", want.uuid, want.key)
                self._engine.lift(want.uuid, want.key, audit.HSEM)

    def _record(self, event: str, uuid: str, name: str, text: str, **data: Any) -> None:
        if self._dry_run:
            data["dry_run"] = True
        self._audit.record(event, who=audit.HSEM, text=text, uuid=uuid, name=name, **data)
