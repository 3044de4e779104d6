# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an operator or an admin may have done over the control socket: checked here, done by `Operator`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.control import lookup
from xenwarden_host.control.vmview import limit_now
from xenwarden_host.errors import XenwardenError
from xenwarden_host.records import Level, LimitKey, LimitKind, VmState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.daemon.warden import Warden

_MAX_FOR_S = 10 * 365 * 86400
_HIGHEST = {LimitKind.WEIGHT: 65535, LimitKind.PAUSE: 1}  # where it is not what fits into JSON


def release(warden: Warden, request: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
    """Lift the limits of one VM, or of all that have some."""
    guests = [lookup.running(warden, request)] if "vm" in request else _to_release(warden)
    if warden.dry_run and not request.get("dry_run"):
        raise XenwardenError("xenwardend runs with --dry-run: it changes nothing")
    out = []
    for guest in guests:
        uuid = guest.info.uuid
        if request.get("dry_run"):
            state = warden.hsem.state(uuid)
            lifted = sorted(str(key) for key in warden.engine.held(uuid))
        else:
            state, lifted = warden.operator.release(uuid, f"operator:{user}")
        out.append({"name": guest.info.name, "uuid": uuid, "state": str(state), "lifted": lifted})
    return out


def limit(warden: Warden, request: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Set an operator's limits on a VM."""
    info, dry_run = lookup.running(warden, request).info, bool(request.get("dry_run"))
    orders, for_s = _orders(request.get("orders")), request.get("for_s")
    if for_s is not None and not (isinstance(for_s, (int, float)) and 0 < for_s <= _MAX_FOR_S):
        raise XenwardenError("a limit lasts between a second and ten years")
    if info.service:
        raise XenwardenError(f"{info.name} serves other VMs: it is never limited")
    policy = warden.policy.vm(info.uuid, info.name)
    if policy.exempt:
        raise XenwardenError(
            f"the policy exempts {info.name} from limits",
            hint=f"as is said in {warden.policy.vm_sources(info.uuid, info.name)['exempt']}",
        )
    file = warden.kill_switch.engaged_by()
    if file is not None:
        raise XenwardenError(f"the kill switch is on ({file}): no limit is set")
    if warden.dry_run and not dry_run:
        raise XenwardenError("xenwardend runs with --dry-run: it changes nothing")
    before = {str(s.key): s.value for s in warden.engine.status(info.uuid)}
    if not dry_run:
        warden.operator.limit(info.uuid, orders, f"operator:{user}", for_s)
    return {
        "name": info.name,
        "uuid": info.uuid,
        "ordered": [
            {"kind": str(key), "value": value or None, "was": before.get(str(key))}
            for key, value in orders.items()
        ],
        "limits_now": [limit_now(status) for status in warden.engine.status(info.uuid)],
    }


def level(warden: Warden, request: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Order the level of a VM's agent."""
    info, wanted = lookup.running(warden, request).info, request.get("level")
    if type(wanted) is not int or wanted not in tuple(Level):
        raise XenwardenError("the level must be 1 or 2")
    was = warden.hsem.ordered_level(info.uuid)
    if was is None:
        raise XenwardenError(f"{info.name} has only just started", hint="try again in a second")
    if not request.get("dry_run"):
        if warden.dry_run:
            raise XenwardenError("xenwardend runs with --dry-run: it changes nothing")
        warden.operator.level(info.uuid, Level(wanted), f"operator:{user}")
    return {"name": info.name, "uuid": info.uuid, "was": int(was), "ordered": wanted}


def forget(warden: Warden, request: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Drop what is known of a VM."""
    uuid, name = lookup.known(warden, request)
    if warden.dry_run and not request.get("dry_run"):
        raise XenwardenError("xenwardend runs with --dry-run: it changes nothing")
    state = warden.hsem.state(uuid)
    if name and (warden.engine.status(uuid) or state is not VmState.NORMAL):
        why = "has limits" if state is VmState.NORMAL else f"is {state}"
        raise XenwardenError(f"{name} {why}", hint=f"first: xenwarden release {name}")
    known = warden.operator.known_of(uuid)
    if not request.get("dry_run"):
        warden.operator.forget(uuid, name or uuid, f"operator:{user}")
    return {"uuid": uuid, "name": name, "forgotten": known}


def kill_switch(warden: Warden, request: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Turn the kill switch on or off, or tell how it is."""
    switch = warden.kill_switch
    action, dry_run = request.get("action"), bool(request.get("dry_run"))
    if action not in ("on", "off", "status"):
        raise XenwardenError("kill-switch takes on, off or status")
    if action != "status" and not dry_run:
        if action == "on":
            switch.engage()
        else:
            switch.disengage()
        warden.audit.record(
            "kill-switch",
            who=f"operator:{user}",
            text=f"kill switch turned {action} by {user}",
            on=action == "on",
        )
    file = switch.engaged_by()
    return {
        "on": action == "on" if dry_run else file is not None,
        "file": None if file is None else str(file),
    }


def _to_release(warden: Warden) -> list[Guest]:
    """Return the VMs that have something to be released from; others are not let alone for it."""
    return [
        guest
        for uuid, guest in warden.tracker.vms().items()
        if warden.engine.status(uuid) or warden.hsem.state(uuid) is not VmState.NORMAL
    ]


def _orders(given: Any) -> dict[LimitKey, int]:
    """Return an operator's orders; 0 takes one back."""
    if not isinstance(given, dict) or not given:
        raise XenwardenError("no limit was named")
    orders = {}
    for name, value in given.items():
        try:
            key = LimitKey.parse(name)
        except ValueError:
            raise XenwardenError(f"there is no limit {name!r}") from None
        if (key.kind is LimitKind.VIF_PPS) != (key.match is not None):
            raise XenwardenError(f"there is no limit {name!r}")
        highest = _HIGHEST.get(key.kind, 1 << 53)
        if type(value) is not int or not 0 <= value <= highest:
            raise XenwardenError(f"{name} cannot be {value}: it is a whole number of at most {highest}")
        orders[key] = value
    return orders
