# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the control socket answers. The shapes are documented in the command's table of verbs."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from xenwarden_channel.signals import SIGNALS
from xenwarden_host import __version__
from xenwarden_host.control.peers import Role
from xenwarden_host.control.plain import plain
from xenwarden_host.errors import XenwardenError
from xenwarden_host.records import AgentState, VmState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenwarden_host.control.peers import Peer
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.daemon.warden import Warden
    from xenwarden_host.records import LimitStatus

_MAX_EVENTS = 1000
EVENTS = "event"  # the streams that a client may follow
RECORDING = "lines"


class Answers:
    """Answer requests from what `warden` knows."""

    def __init__(self, warden: Warden, policy_file: Callable[[], Path | None], xen_version: str) -> None:
        self._warden = warden
        self._policy_file = policy_file
        self._xen_version = xen_version

    def answer(self, request: dict[str, Any], peer: Peer, role: Role) -> tuple[Any, str | None]:
        """Return the result and which stream the client follows from now on, None for none.

        Raises:
            XenwardenError: a sentence for the user.
        """
        do = request["do"]
        if do not in _COMMANDS:
            raise XenwardenError(
                "xenwardend does not know this request", hint="the command is newer than the daemon"
            )
        needed, command = _COMMANDS[do]
        if do == "kill-switch" and request.get("action") == "status":
            needed = Role.VIEWER
        if role < needed:
            raise XenwardenError(
                f"{do} needs the role {needed.name.lower()}; user {peer.user} has {role.name.lower()}",
                hint="see the roles in `xenwarden policy show`",
            )
        result = command(self, request, peer.user)
        if do == "record":
            return result, RECORDING
        return result, EVENTS if do == "events" and request.get("follow") is True else None

    # --- looking ---------------------------------------------------------------------------------

    def _list(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        warden = self._warden
        guests = sorted(warden.tracker.vms().values(), key=lambda guest: guest.info.domid)
        file = warden.kill_switch.engaged_by()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "vms": [self._row(guest) for guest in guests],
            "kill_switch": None if file is None else str(file),
            "notices": warden.notices(),
            "daemon": {
                "version": __version__,
                "pid": os.getpid(),
                "dry_run": warden.dry_run,
                "up_s": round(warden.clock.monotonic() - warden.started_s, 1),
                "cpu_s": round(used.ru_utime + used.ru_stime, 3),
                "rss_kb": _rss_kb(),
                "ticks": warden.ticks,
                "errors": dict(warden.errors),
                "store": "lost" if warden.tracker.store_lost else "connected",
            },
        }

    def _row(self, guest: Guest) -> dict[str, Any]:
        warden, info = self._warden, guest.info
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

    def _show(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        warden, guest = self._warden, self._guest(request)
        row = self._row(guest)
        del row["limits"]
        agent_state = row.pop("agent")
        record = warden.ledger.record(guest.info.uuid)
        report = guest.inbox.report
        agent = None
        if report is not None or agent_state != AgentState.ABSENT:
            agent = {
                "state": agent_state,
                "version": report.agent_version if report else "",
                "rss_kb": report.agent_rss_kb if report else None,
                "cpu_s": report.agent_cpu_s if report else None,
                "wall_s": report.agent_up_s if report else None,
                "age_s": round(warden.clock.monotonic() - guest.inbox.report_received_s, 1)
                if report
                else None,
                "refused": guest.inbox.bad_values,
            }
        return row | {
            "also_victim": record.also_victim,
            "why": record.why,
            "evidence": record.evidence,
            "agent": agent,
            "signals": self._signals(guest),
            "levels": list(record.levels),
            "limits": list(record.limits),
            "limits_now": [_limit(status) for status in warden.engine.status(guest.info.uuid)],
            "verdict_t_mono_s": warden.ledger.mono_s(record.verdict_unix_s),
            "released_t_mono_s": warden.ledger.mono_s(record.released_unix_s),
        }

    def _signals(self, guest: Guest) -> dict[str, dict[str, Any]]:
        warden, uuid = self._warden, guest.info.uuid
        report = guest.inbox.report
        values = {**(report.signals if report else {}), **warden.signals.get(uuid, {})}
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

    def _why(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        warden, guest = self._warden, self._guest(request)
        record = warden.ledger.record(guest.info.uuid)
        return {
            "name": guest.info.name,
            "state": str(warden.hsem.state(guest.info.uuid)),
            "verdict": None if record.verdict is None else str(record.verdict),
            "why": record.why,
            "evidence": record.evidence,
            "limits_now": [_limit(status) for status in warden.engine.status(guest.info.uuid)],
            "events": warden.database.audit(limit=10, uuid=guest.info.uuid),
        }

    def _limits(self, request: Mapping[str, Any], _user: str) -> list[dict[str, Any]]:
        warden = self._warden
        uuid = self._guest(request).info.uuid if "vm" in request else None
        vms = warden.tracker.vms()
        return [
            {
                "name": vms[status.uuid].info.name if status.uuid in vms else status.uuid,
                "uuid": status.uuid,
                **_limit(status),
            }
            for status in warden.engine.status(uuid)
        ]

    def _events(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        lines = request.get("lines", 20)
        if not isinstance(lines, int) or lines < 0:
            raise XenwardenError("the number of events must be a whole number")
        uuid = self._guest(request).info.uuid if "vm" in request else None
        events = self._warden.database.audit(limit=min(lines, _MAX_EVENTS), uuid=uuid)
        return {"events": events, "uuid": uuid}

    def _policy(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        policy = plain(self._warden.policy)
        text = yaml.safe_dump(policy, sort_keys=False, allow_unicode=True, width=110)
        file = self._policy_file()
        return {"file": None if file is None else str(file), "policy": policy, "text": text}

    def _version(self, _request: Mapping[str, Any], _user: str) -> dict[str, str]:
        return {"daemon": __version__, "xen": self._xen_version}

    def _record(self, _request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """Begin a recording; its lines follow with the ticks. Only one at a time."""
        return {
            "header": self._warden.start_recording(f"operator:{user}"),
            "max_bytes": self._warden.policy.recording.max_mb * 1_000_000,
        }

    # --- steering --------------------------------------------------------------------------------

    def _release(self, request: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
        warden = self._warden
        guests = [self._guest(request)] if "vm" in request else self._to_release()
        if warden.dry_run and not request.get("dry_run"):
            raise XenwardenError("xenwardend runs with --dry-run: it changes nothing")
        out = []
        for guest in guests:
            uuid = guest.info.uuid
            if request.get("dry_run"):
                state = warden.hsem.state(uuid)
                lifted = sorted(str(key) for key in warden.engine.held(uuid))
            else:
                state, lifted = warden.release(uuid, f"operator:{user}")
            out.append({"name": guest.info.name, "uuid": uuid, "state": str(state), "lifted": lifted})
        return out

    def _to_release(self) -> list[Guest]:
        """Return the VMs that have something to be released from; others are not let alone for it."""
        warden = self._warden
        return [
            guest
            for uuid, guest in warden.tracker.vms().items()
            if warden.engine.status(uuid) or warden.hsem.state(uuid) is not VmState.NORMAL
        ]

    def _kill_switch(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        switch = self._warden.kill_switch
        action, dry_run = request.get("action"), bool(request.get("dry_run"))
        if action not in ("on", "off", "status"):
            raise XenwardenError("kill-switch takes on, off or status")
        if action != "status" and not dry_run:
            if action == "on":
                switch.engage()
            else:
                switch.disengage()
            self._warden.audit.record(
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

    # --- helpers ---------------------------------------------------------------------------------

    def _guest(self, request: Mapping[str, Any]) -> Guest:
        """Find the VM that `vm` names: a domain id, a UUID or a name."""
        wanted = request.get("vm")
        vms = self._warden.tracker.vms()
        if not isinstance(wanted, str) or not wanted:
            raise XenwardenError("no VM was named")
        if wanted.isascii() and wanted.isdigit() and len(wanted) <= 5:
            found = [guest for guest in vms.values() if guest.info.domid == int(wanted)]
        else:
            found = [vms[wanted.lower()]] if wanted.lower() in vms else []
        found = found or [guest for guest in vms.values() if guest.info.name == wanted]
        if not found:
            raise XenwardenError(f"no VM {wanted!r} runs here", hint="see: xenwarden list")
        if len(found) > 1:
            ids = ", ".join(str(guest.info.domid) for guest in found)
            raise XenwardenError(f"{wanted!r} is the name of several VMs", hint=f"say which by its id: {ids}")
        return found[0]


def _limit(status: LimitStatus) -> dict[str, Any]:
    return {
        "kind": str(status.key),
        "value": status.value,
        "original": status.original,
        "state": str(status.state),
        "owner": status.owner,
        "why": status.why,
        "since_unix_s": status.since_unix_s,
        "detail": status.detail,
    }


def _rss_kb() -> int:
    """Return the daemon's resident memory: field 2 of /proc/self/statm, in pages."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


_COMMANDS: dict[str, tuple[Role, Callable[[Answers, Mapping[str, Any], str], Any]]] = {
    "list": (Role.VIEWER, Answers._list),  # noqa: SLF001  the table stands beside its class
    "show": (Role.VIEWER, Answers._show),  # noqa: SLF001
    "why": (Role.VIEWER, Answers._why),  # noqa: SLF001
    "limits": (Role.VIEWER, Answers._limits),  # noqa: SLF001
    "events": (Role.VIEWER, Answers._events),  # noqa: SLF001
    "policy": (Role.VIEWER, Answers._policy),  # noqa: SLF001
    "version": (Role.VIEWER, Answers._version),  # noqa: SLF001
    "record": (Role.ADMIN, Answers._record),  # noqa: SLF001
    "release": (Role.OPERATOR, Answers._release),  # noqa: SLF001
    "kill-switch": (Role.ADMIN, Answers._kill_switch),  # noqa: SLF001
}
