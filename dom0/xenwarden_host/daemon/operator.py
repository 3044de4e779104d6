# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an operator orders: done at once, told in the audit log, and kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xenwarden_host.daemon import words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.daemon.warden import Warden
    from xenwarden_host.records import Level, LimitKey, VmState


class Operator:
    """The orders. `who` is `operator:NAME`; each is checked by who asks."""

    def __init__(self, warden: Warden) -> None:
        self._warden = warden

    def release(self, uuid: str, who: str) -> tuple[VmState, list[str]]:
        """Lift all limits of a VM now and have HSEM begin with it anew; return its state and what it had."""
        warden = self._warden
        state = warden.hsem.state(uuid)
        held = sorted(str(key) for key in warden.engine.held(uuid))
        vms = warden.tracker.vms()
        name = vms[uuid].info.name if uuid in vms else uuid
        warden.audit.record(
            "release",
            who=who,
            text=f"{name} released by {_user(who)}: was {state}, limits: {', '.join(held) or 'none'}",
            uuid=uuid,
            name=name,
            level=logging.WARNING,
            state=str(state),
            lifted=held,
        )
        warden.applier.forget(uuid)
        warden.note_order(lambda recorder: recorder.release(uuid, who, warden.clock.monotonic()))
        warden.applier.apply(warden.hsem.release(uuid, who), vms)
        warden.engine.lift_all(uuid)
        warden.reconcile(vms)
        warden.save()
        return state, held

    def level(self, uuid: str, level: Level, who: str) -> None:
        """Have a VM's agent work at no lower level from now on, and say so."""
        warden = self._warden
        vms = warden.tracker.vms()
        name = vms[uuid].info.name
        warden.audit.record(
            "level-ordered",
            who=who,
            text=f"{name}: level {int(level)} ordered by {_user(who)}",
            uuid=uuid,
            name=name,
            to=int(level),
        )
        warden.note_order(lambda recorder: recorder.order_level(uuid, level, who, warden.clock.monotonic()))
        warden.applier.apply(warden.hsem.order_level(uuid, level, who), vms)
        warden.save()

    def limit(self, uuid: str, orders: Mapping[LimitKey, int], who: str, for_s: float | None) -> None:
        """Set an operator's limits on a VM now, 0 takes the operators' own one of that key back.

        Args:
            uuid: of a VM that runs.
            orders: value by key, in the unit of the kind.
            who: `operator:NAME`.
            for_s: when they lapse by themselves, in seconds from now.

        Raises:
            LimitError: a value is none.
        """
        warden, user = self._warden, _user(who)
        vms = warden.tracker.vms()
        name = vms[uuid].info.name
        until = None if for_s is None else warden.clock.unix() + for_s
        told = []
        for key, value in orders.items():
            if value:
                warden.engine.want(uuid, key, value, who, f"ordered by {user}", until)
            else:
                warden.engine.lift(uuid, key, who)
            told.append(words.order(key, value))
        warden.audit.record(
            "limit-ordered",
            who=who,
            text=f"{user} ordered for {name}: {', '.join(told)}",
            uuid=uuid,
            name=name,
            level=logging.WARNING,
            orders={str(key): value for key, value in orders.items()},
            until_unix_s=until,
        )
        warden.reconcile(vms)

    def known_of(self, uuid: str) -> list[str]:
        """Return what `forget` would drop: history, verdict, state."""
        warden = self._warden
        parts = {
            "history": uuid in warden.history.uuids(),
            "verdict": uuid in warden.ledger.dump(),
            "state": uuid in warden.hsem.dump(),
        }
        return [name for name, there in parts.items() if there]

    def forget(self, uuid: str, name: str, who: str) -> None:
        """Drop what is known of a VM that is NORMAL or gone; the audit log stays, and says who did it."""
        warden = self._warden
        warden.audit.record(
            "forget",
            who=who,
            text=f"what is known of {name} was forgotten by {_user(who)}",
            uuid=uuid,
            name=name,
            level=logging.WARNING,
        )
        warden.applier.forget(uuid)
        warden.engine.lift_all(uuid)
        warden.history.forget(uuid)
        warden.ledger.forget(uuid)
        warden.hsem.forget(uuid)
        warden.tracker.forget(uuid)
        warden.save(all_of_it=True)


def _user(who: str) -> str:
    return who.partition(":")[2]
