# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that is told of one VM: in a row, in full, of one that is gone; and of a limit on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import BY_DOM0, HEADERS, SIGNALS
from xenwarden_host.hrem import hypercalls
from xenwarden_host.records import AgentState, Level

if TYPE_CHECKING:
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.daemon.warden import Warden
    from xenwarden_host.records import LimitStatus

_QUOTAS = ("nodes", "watches", "transactions")  # of XenStore, that are shown
# HREM's signals that it has only while there is something to tell, and only of a VM that is looked at.
_NOW_AND_THEN = frozenset(("ask_ps", "vif_police_drop_pps"))
_BY_LOOK = frozenset(f"{BY_DOM0}{name}" for name in HEADERS)
_BY_TRACE = frozenset(hypercalls.SIGNALS)


def row(warden: Warden, guest: Guest) -> dict[str, Any]:
    """Return a VM as a row of `list`."""
    info = guest.info
    record = warden.ledger.record(info.uuid)
    return {
        "name": info.name,
        "domid": info.domid,
        "uuid": info.uuid,
        "type": str(info.vm_type),
        "state": str(warden.hsem.state(info.uuid)),
        "level": int(record.level),
        "verdict": None if record.verdict is None else str(record.verdict),
        "agent": str(warden.agent_state(guest)),
        "limits": sorted(str(key) for key in warden.engine.held(info.uuid)),
    }


def show(warden: Warden, guest: Guest) -> dict[str, Any]:
    """Return all that is known of a VM that runs."""
    found = row(warden, guest)
    del found["limits"]
    agent_state = found.pop("agent")
    record = warden.ledger.record(guest.info.uuid)
    report = guest.inbox.report
    agent = None
    if report is not None or agent_state != AgentState.ABSENT:
        age_s = guest.inbox.report_age_s(warden.clock.monotonic())
        agent = {
            "state": agent_state,
            "version": report.agent_version if report else "",
            "rss_kb": report.agent_rss_kb if report else None,
            "cpu_s": report.agent_cpu_s if report else None,
            "wall_s": report.agent_up_s if report else None,
            "age_s": None if age_s is None else round(age_s, 1),
            "refused": guest.inbox.bad_values,
        }
    return found | {
        "level_ordered": int(warden.hsem.ordered_level(guest.info.uuid) or Level.ONE),
        "also_victim": record.also_victim,
        "why": record.why,
        "evidence": record.evidence,
        "agent": agent,
        "signals": _signals(warden, guest),
        "missing": _missing(warden, guest),
        "devices": warden.hrem.devices(guest.info.uuid),
        "trace": _trace(warden, guest),
        "levels": list(record.levels),
        "limits": list(record.limits),
        "limits_now": [limit_now(status) for status in warden.engine.status(guest.info.uuid)],
        "xenstore": {
            **{name: warden.store_use.of(guest.info.domid).get(name) for name in _QUOTAS},
            "transaction_held_s": warden.store_use.held_s(guest.info.domid),
        },
        "grants": [
            {
                "kind": str(kind),
                "value": want.value,
                "own": warden.desk.book.own((uuid, kind), want.value),
                "why": want.why,
                "since_unix_s": want.since_unix_s,
            }
            for (uuid, kind), want in warden.desk.book.wants.items()
            if uuid == guest.info.uuid
        ],
        "verdict_t_mono_s": warden.ledger.mono_s(record.verdict_unix_s),
        "released_t_mono_s": warden.ledger.mono_s(record.released_unix_s),
    }


def gone(warden: Warden, uuid: str) -> dict[str, Any]:
    """Return of a VM that does not run what `show` would tell of it, as far as that is still known."""
    record = warden.ledger.record(uuid)
    last = warden.database.audit(limit=1, uuid=uuid)
    return {
        "name": last[0]["name"] if last else uuid,
        "domid": None,
        "uuid": uuid,
        "type": None,
        "state": str(warden.hsem.state(uuid)),
        "level": int(record.level),
        "verdict": None if record.verdict is None else str(record.verdict),
        "also_victim": record.also_victim,
        "why": record.why,
        "evidence": record.evidence,
        "signals": {
            name: {
                "value": None,
                "usual": warden.history.upper(uuid, name),
                "unit": unit,
                "source": source,
            }
            for name, (source, unit, _meaning) in SIGNALS.items()
            if warden.history.knows(name)
        },
        "limits_now": [limit_now(status) for status in warden.engine.status(uuid)],
    }


def limit_now(status: LimitStatus) -> dict[str, Any]:
    """Return how a limit stands."""
    return {
        "kind": str(status.key),
        "value": status.value,
        "set": status.set_to,
        "read_back": status.read_back,
        "original": status.original,
        "state": str(status.state),
        "owner": status.owner,
        "why": status.why,
        "since_unix_s": status.since_unix_s,
        "until_unix_s": status.until_unix_s,
        "took_s": status.took_s,
        "detail": status.detail,
    }


def _signals(warden: Warden, guest: Guest) -> dict[str, dict[str, Any]]:
    uuid = guest.info.uuid
    values = warden.signals_of(guest)
    return {
        name: {
            "value": values[name],
            "usual": warden.history.upper(uuid, name),
            "unit": unit,
            "source": source,
        }
        for name, (source, unit, _meaning) in SIGNALS.items()
        if name in values
    }


def _missing(warden: Warden, guest: Guest) -> list[str]:
    """Return the signals that are not known of the VM though they could be: it is judged without them."""
    values = warden.signals_of(guest)
    looks = warden.applier.ordered.get(guest.info.uuid) is Level.TWO
    unexpected = _NOW_AND_THEN | _BY_TRACE if looks else _NOW_AND_THEN | _BY_TRACE | _BY_LOOK
    if looks and warden.policy.watch.trace:
        unexpected -= {hypercalls.TOTAL}
    return [name for name in SIGNALS if name not in values and name not in unexpected]


def _trace(warden: Warden, guest: Guest) -> dict[str, Any] | None:
    """Return what the last burst of Xen's trace took; None where the VM is not traced."""
    if warden.applier.ordered.get(guest.info.uuid) is not Level.TWO or not warden.policy.watch.trace:
        return None
    cost = warden.tracing.cost
    return {
        "read_kb": round(cost.read_kb, 1) if cost else None,
        "took_ms": round(cost.took_ms, 2) if cost else None,
        "why_not": warden.tracing.yields,
    }
