# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the control socket answers. The shapes are documented in the command's table of verbs."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from xenwarden_channel.signals import BY_DOM0, HEADERS, SIGNALS
from xenwarden_host import __version__
from xenwarden_host.control import reports
from xenwarden_host.control.overview import Overview
from xenwarden_host.control.peers import Role
from xenwarden_host.control.plain import plain
from xenwarden_host.errors import XenwardenError
from xenwarden_host.hrem import hypercalls
from xenwarden_host.policy.explain import explain
from xenwarden_host.records import AgentState, Level, LimitKey, LimitKind, VmState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenwarden_host.control.peers import Peer
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.daemon.warden import Warden
    from xenwarden_host.records import HostInfo, LimitStatus

_MAX_EVENTS = 1000
_MAX_FOR_S = 10 * 365 * 86400
_HIGHEST = {LimitKind.WEIGHT: 65535, LimitKind.PAUSE: 1}  # where it is not what fits into JSON
_QUOTAS = ("nodes", "watches", "transactions")  # of XenStore, that are shown
# HREM's signals that it has only while there is something to tell, and only of a VM that is looked at.
_NOW_AND_THEN = frozenset(("ask_ps", "vif_police_drop_pps"))
_BY_LOOK = frozenset(f"{BY_DOM0}{name}" for name in HEADERS)
_BY_TRACE = frozenset(hypercalls.SIGNALS)
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

    def _top(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        warden = self._warden
        guests = sorted(warden.tracker.vms().values(), key=lambda guest: guest.info.domid)
        return {
            "unix_s": round(warden.clock.unix(), 3),
            "host": socket.gethostname(),
            "cpus": self._host.pcpus if self._host else None,
            "notices": warden.notices(),
            "vms": [
                self._row(guest) | more for guest, more in zip(guests, self._overview.of(guests), strict=True)
            ],
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
        return row | {
            "level_ordered": int(warden.hsem.ordered_level(guest.info.uuid) or Level.ONE),
            "also_victim": record.also_victim,
            "why": record.why,
            "evidence": record.evidence,
            "agent": agent,
            "signals": self._signals(guest),
            "missing": self._missing(guest),
            "devices": warden.hrem.devices(guest.info.uuid),
            "trace": self._trace(guest),
            "levels": list(record.levels),
            "limits": list(record.limits),
            "limits_now": [_limit(status) for status in warden.engine.status(guest.info.uuid)],
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

    def _gone(self, uuid: str) -> dict[str, Any]:
        """Return of a VM that does not run what `show` would tell of it, as far as that is still known."""
        warden = self._warden
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
            "limits_now": [_limit(status) for status in warden.engine.status(uuid)],
        }

    def _signals(self, guest: Guest) -> dict[str, dict[str, Any]]:
        warden, uuid = self._warden, guest.info.uuid
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

    def _missing(self, guest: Guest) -> list[str]:
        """Return the signals that are not known of the VM though they could be: it is judged without them."""
        values = self._warden.signals_of(guest)
        looks = self._warden.applier.ordered.get(guest.info.uuid) is Level.TWO
        unexpected = _NOW_AND_THEN | _BY_TRACE if looks else _NOW_AND_THEN | _BY_TRACE | _BY_LOOK
        if looks and self._warden.policy.watch.trace:
            unexpected -= {hypercalls.TOTAL}
        return [name for name in SIGNALS if name not in values and name not in unexpected]

    def _trace(self, guest: Guest) -> dict[str, Any] | None:
        """Return what the last burst of Xen's trace took; None where the VM is not traced."""
        warden = self._warden
        if warden.applier.ordered.get(guest.info.uuid) is not Level.TWO or not warden.policy.watch.trace:
            return None
        cost = warden.tracing.cost
        return {
            "read_kb": round(cost.read_kb, 1) if cost else None,
            "took_ms": round(cost.took_ms, 2) if cost else None,
            "why_not": warden.tracing.yields,
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

    def _capacity(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        return reports.capacity_of(self._warden)

    def _sprawl(self, _request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        return reports.sprawl_of(self._warden)

    def _events(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        lines = request.get("lines", 20)
        if not isinstance(lines, int) or lines < 0:
            raise XenwardenError("the number of events must be a whole number")
        uuid = self._guest(request).info.uuid if "vm" in request else None
        events = self._warden.database.audit(limit=min(lines, _MAX_EVENTS), uuid=uuid)
        return {"events": events, "uuid": uuid}

    def _report(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """Return all that a page on one VM is made from, since a time; of events the last thousand."""
        warden = self._warden
        uuid, name = self._known(request)
        since_s = request.get("since_unix_s")
        if not isinstance(since_s, int):
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
            "vm": self._show({"vm": uuid}, user) if name is not None else self._gone(uuid),
            "events": events,
            "samples": [
                {"unix_s": unix_s, "signals": values} for unix_s, values in warden.samples.rows(uuid, since_s)
            ],
        }

    def _policy(self, request: Mapping[str, Any], _user: str) -> dict[str, Any]:
        policy, file = self._warden.policy, self._policy_file()
        answer: dict[str, Any] = {"file": None if file is None else str(file)}
        if "vm" in request:
            info = self._guest(request).info
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
        uuid, name = self._known(request)
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
                state, lifted = warden.operator.release(uuid, f"operator:{user}")
            out.append({"name": guest.info.name, "uuid": uuid, "state": str(state), "lifted": lifted})
        return out

    def _limit(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        warden, guest = self._warden, self._guest(request)
        info, dry_run = guest.info, bool(request.get("dry_run"))
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
            "limits_now": [_limit(status) for status in warden.engine.status(info.uuid)],
        }

    def _level(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        warden, guest = self._warden, self._guest(request)
        info, level = guest.info, request.get("level")
        if type(level) is not int or level not in tuple(Level):
            raise XenwardenError("the level must be 1 or 2")
        was = warden.hsem.ordered_level(info.uuid)
        if was is None:
            raise XenwardenError(f"{info.name} has only just started", hint="try again in a second")
        if not request.get("dry_run"):
            if warden.dry_run:
                raise XenwardenError("xenwardend runs with --dry-run: it changes nothing")
            warden.operator.level(info.uuid, Level(level), f"operator:{user}")
        return {"name": info.name, "uuid": info.uuid, "was": int(was), "ordered": level}

    def _to_release(self) -> list[Guest]:
        """Return the VMs that have something to be released from; others are not let alone for it."""
        warden = self._warden
        return [
            guest
            for uuid, guest in warden.tracker.vms().items()
            if warden.engine.status(uuid) or warden.hsem.state(uuid) is not VmState.NORMAL
        ]

    def _forget(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        warden = self._warden
        uuid, name = self._known(request)
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

    def _known(self, request: Mapping[str, Any]) -> tuple[str, str | None]:
        """Return UUID and name of the VM that `vm` names; one that is gone is named by UUID."""
        wanted = str(request.get("vm")).lower()
        if wanted not in self._warden.tracker.vms() and self._warden.operator.known_of(wanted):
            return wanted, None
        guest = self._guest(request)
        return guest.info.uuid, guest.info.name

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


def _limit(status: LimitStatus) -> dict[str, Any]:
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


def _rss_kb() -> int:
    """Return the daemon's resident memory: field 2 of /proc/self/statm, in pages."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


_COMMANDS: dict[str, tuple[Role, Callable[[Answers, Mapping[str, Any], str], Any]]] = {
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
    "forget": (Role.ADMIN, Answers._forget),  # noqa: SLF001
    "record": (Role.ADMIN, Answers._record),  # noqa: SLF001
    "release": (Role.OPERATOR, Answers._release),  # noqa: SLF001
    "limit": (Role.OPERATOR, Answers._limit),  # noqa: SLF001
    "level": (Role.OPERATOR, Answers._level),  # noqa: SLF001
    "kill-switch": (Role.ADMIN, Answers._kill_switch),  # noqa: SLF001
}
