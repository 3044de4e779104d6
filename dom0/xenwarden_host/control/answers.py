# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the control socket answers. The shapes are documented in the command's table of verbs."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from xenwarden_channel.signals import SIGNALS
from xenwarden_host import __version__
from xenwarden_host.control import lookup, reports, steering, vmview
from xenwarden_host.control.overview import Overview
from xenwarden_host.control.peers import Role
from xenwarden_host.control.plain import plain
from xenwarden_host.errors import XenwardenError
from xenwarden_host.policy.explain import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenwarden_host.control.peers import Peer
    from xenwarden_host.daemon.warden import Warden
    from xenwarden_host.records import HostInfo

    _Command = Callable[["Answers", Mapping[str, Any], str], Any]
    _Steers = Callable[[Warden, Mapping[str, Any], str], Any]

_MAX_EVENTS = 1000
_MAX_UNIX_S = 1 << 53
EVENTS = "event"  # the streams that a client may follow
RECORDING = "lines"


class Answers:
    """Answer requests from what `warden` knows."""

    def __init__(self, warden: Warden, policy_file: Callable[[], Path | None], host: HostInfo | None) -> None:
        self._warden = warden
        self._policy_file = policy_file
        self._host = host
        self._overview = Overview(warden)

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

    def _show(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        return vmview.show(self._warden, lookup.running(self._warden, request))

    def _list(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        warden = self._warden
        guests = sorted(warden.tracker.vms().values(), key=lambda guest: guest.info.domid)
        file = warden.kill_switch.engaged_by()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "vms": [vmview.row(warden, guest) for guest in guests],
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

    def _top(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        warden = self._warden
        guests = sorted(warden.tracker.vms().values(), key=lambda guest: guest.info.domid)
        return {
            "unix_s": round(warden.clock.unix(), 3),
            "host": socket.gethostname(),
            "cpus": self._host.pcpus if self._host else None,
            "notices": warden.notices(),
            "vms": [
                vmview.row(warden, guest) | more
                for guest, more in zip(guests, self._overview.of(guests), strict=True)
            ],
        }

    def _why(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        warden, guest = self._warden, lookup.running(self._warden, request)
        record = warden.ledger.record(guest.info.uuid)
        return {
            "name": guest.info.name,
            "state": str(warden.hsem.state(guest.info.uuid)),
            "verdict": None if record.verdict is None else str(record.verdict),
            "why": record.why,
            "evidence": record.evidence,
            "limits_now": [vmview.limit_now(status) for status in warden.engine.status(guest.info.uuid)],
            "events": warden.database.audit(limit=10, uuid=guest.info.uuid),
        }

    def _limits(self, request: Mapping[str, Any], _user: str) -> list[dict[str, Any]]:
        warden = self._warden
        uuid = lookup.running(self._warden, request).info.uuid if "vm" in request else None
        vms = warden.tracker.vms()
        return [
            {
                "name": vms[status.uuid].info.name if status.uuid in vms else status.uuid,
                "uuid": status.uuid,
                **vmview.limit_now(status),
            }
            for status in warden.engine.status(uuid)
        ]

    def _capacity(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        return reports.capacity_of(self._warden)

    def _sprawl(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        return reports.sprawl_of(self._warden)

    def _events(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        lines = request.get("lines", 20)
        if not isinstance(lines, int) or lines < 0:
            raise XenwardenError("the number of events must be a whole number")
        uuid = lookup.running(self._warden, request).info.uuid if "vm" in request else None
        events = self._warden.database.audit(limit=min(lines, _MAX_EVENTS), uuid=uuid)
        return {"events": events, "uuid": uuid}

    def _report(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        """Return all that a page on one VM is made from, since a time; of events the last thousand."""
        warden = self._warden
        uuid, name = lookup.known(warden, request)
        since_s = request.get("since_unix_s")
        if type(since_s) is not int or abs(since_s) > _MAX_UNIX_S:
            raise XenwardenError("since_unix_s must be a whole number")
        events = warden.database.audit(limit=_MAX_EVENTS, uuid=uuid)
        events += warden.database.audit(limit=_MAX_EVENTS, uuid="")  # of the host: starts, kill switch
        events = sorted(
            (event for event in events if event["unix_s"] >= since_s), key=lambda event: event["id"]
        )
        return {
            "host": socket.gethostname(),
            "version": __version__,
            "unix_s": round(warden.clock.unix(), 3),
            "since_unix_s": since_s,
            "vm": vmview.show(warden, warden.tracker.vms()[uuid])
            if name is not None
            else vmview.gone(warden, uuid),
            "events": events,
            "samples": [
                {"unix_s": unix_s, "signals": values} for unix_s, values in warden.samples.rows(uuid, since_s)
            ],
        }

    def _policy(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        policy, file = self._warden.policy, self._policy_file()
        answer: dict[str, Any] = {"file": None if file is None else str(file)}
        if "vm" in request:
            info = lookup.running(self._warden, request).info
            answer |= {"name": info.name, "uuid": info.uuid, "values": explain(policy, info.uuid, info.name)}
        else:
            answer["policy"] = {name: value for name, value in plain(policy).items() if name != "data"}
            answer["text"] = yaml.safe_dump(answer["policy"], sort_keys=False, allow_unicode=True, width=110)
        return answer | {"refused": [{"node": node, "why": why} for node, why in policy.refused.items()]}

    def _version(self, _request: Mapping[str, Any], _user: str) -> dict[str, str]:
        return {"daemon": __version__, "xen": self._host.xen_version if self._host else ""}

    def _doctor(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        """Return what only the daemon can tell `xenwarden doctor`."""
        versions: dict[str, list[str]] = {}
        for guest in self._warden.tracker.vms().values():
            if guest.inbox.report is not None:
                versions.setdefault(guest.inbox.report.agent_version or "?", []).append(guest.info.name)
        return {
            "scheduler": self._host.scheduler if self._host else "",
            "agent_versions": versions,
            "refused_nodes": dict(self._warden.policy.refused),
        }

    def _history(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        warden = self._warden
        uuid, name = lookup.known(warden, request)
        if uuid not in warden.history.uuids():
            raise XenwardenError(f"nothing was learnt of {name or uuid} yet")
        kept = warden.history.dump(uuid)
        near_max, near_max_of = kept["near"]
        return {
            "uuid": uuid,
            "name": name,
            "profile": kept["profile"],
            "known_s": round(warden.tracker.known_s(uuid, warden.clock.monotonic()), 1),
            "near_max": near_max,
            "near_max_of": near_max_of,
            "signals": {
                signal: {
                    "p95": round(p95, 3),
                    "usual": round(warden.history.upper(uuid, signal) or usual, 3),
                    "unit": SIGNALS[signal][1],
                    "observations": int(times),
                    "seen_s": seen_s,
                    "learnt": warden.history.learnt(uuid, signal),
                    "hours": warden.history.hours(uuid, signal),
                }
                for signal, (times, seen_s, p95, usual) in kept["signals"].items()
            },
        }

    def _record(self, _request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """Begin a recording; its lines follow with the ticks. Only one at a time."""
        return {
            "header": self._warden.start_recording(f"operator:{user}"),
            "max_bytes": self._warden.policy.recording.max_mb * 1_000_000,
        }


def _rss_kb() -> int:
    """Return the daemon's resident memory: field 2 of /proc/self/statm, in pages."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


def _by(command: _Steers) -> _Command:
    return lambda answers, request, user: command(answers._warden, request, user)  # noqa: SLF001  likewise


_COMMANDS: dict[str, tuple[Role, _Command]] = {
    "list": (Role.VIEWER, Answers._list),  # noqa: SLF001  the table stands beside its class
    "top": (Role.VIEWER, Answers._top),  # noqa: SLF001
    "show": (Role.VIEWER, Answers._show),  # noqa: SLF001
    "why": (Role.VIEWER, Answers._why),  # noqa: SLF001
    "limits": (Role.VIEWER, Answers._limits),  # noqa: SLF001
    "capacity": (Role.VIEWER, Answers._capacity),  # noqa: SLF001
    "sprawl": (Role.VIEWER, Answers._sprawl),  # noqa: SLF001
    "events": (Role.VIEWER, Answers._events),  # noqa: SLF001
    "policy": (Role.VIEWER, Answers._policy),  # noqa: SLF001
    "version": (Role.VIEWER, Answers._version),  # noqa: SLF001
    "report": (Role.VIEWER, Answers._report),  # noqa: SLF001
    "doctor": (Role.VIEWER, Answers._doctor),  # noqa: SLF001
    "history": (Role.VIEWER, Answers._history),  # noqa: SLF001
    "forget": (Role.ADMIN, _by(steering.forget)),
    "record": (Role.ADMIN, Answers._record),  # noqa: SLF001
    "release": (Role.OPERATOR, _by(steering.release)),
    "limit": (Role.OPERATOR, _by(steering.limit)),
    "level": (Role.OPERATOR, _by(steering.level)),
    "kill-switch": (Role.ADMIN, _by(steering.kill_switch)),
}
