# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write what enters the core as lines of a recording; `dom0/recording-format.md` tells the form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.records import Answer, Level, Report, Snapshot, VmView

VERSION = 1
MAGIC = "xenwarden_recording"  # the header's first member; its value is the version


class Recorder:
    """Turn each tick into lines. What stays as it was is not said again: one follows one recording.

    `now_s` and `unix_s` are the time at the begin; `states`, `histories` and `overflows` (by UUID, as
    `Hsem.dump`, `History.dump` and `Overflows.dump` give them) are what the core knows by then.
    """

    def __init__(
        self,
        now_s: float,
        unix_s: float,
        states: Mapping[str, Any],
        histories: Mapping[str, Any],
        overflows: Mapping[str, Any],
    ) -> None:
        self._zero_unix_s = unix_s - now_s
        self._last_s = now_s
        self._states = dict(states)
        self._histories = dict(histories)
        self._overflows = dict(overflows)
        self._said: dict[str, dict[str, Any]] = {}
        self._answered: dict[str, int] = {}

    def header(self) -> str:
        """Return the first line. `unix_s` is the time of day at `t` = 0."""
        return _line({MAGIC: VERSION, "unix_s": self._zero_unix_s})

    def tick(self, snapshot: Snapshot) -> list[str]:
        """Return the lines of a tick: one for each VM of which there is something to say."""
        t = snapshot.now_s
        lines = [_line({"t": t})] if t == self._last_s else []  # a tick of its own
        self._last_s = t
        # The core uses whole seconds of the day, to number its questions: these must come out the same.
        if int(self._zero_unix_s + t) != int(snapshot.unix_s):
            self._zero_unix_s = snapshot.unix_s - t
            lines.append(_line({"t": t, "unix_s": self._zero_unix_s}))
        here = set()
        for view in snapshot.vms:
            here.add(view.uuid)
            said = self._of_vm(view)
            if said:
                lines.append(_line({"t": t, "vm": view.uuid, **said}))
        for uuid in [uuid for uuid in self._said if uuid not in here]:
            del self._said[uuid]
            self._answered.pop(uuid, None)
            lines.append(_line({"t": t, "vm": uuid, "gone": True}))
        return lines or [_line({"t": t})]

    def release(self, uuid: str, who: str, now_s: float) -> str:
        """Return the line of an operator's release, between two ticks."""
        return _line({"t": now_s, "vm": uuid, "release": who})

    def order_level(self, uuid: str, level: Level, who: str, now_s: float) -> str:
        """Return the line of an operator's order of a level, likewise."""
        return _line({"t": now_s, "vm": uuid, "order": {"level": int(level), "who": who}})

    def _of_vm(self, view: VmView) -> dict[str, Any]:
        out: dict[str, Any] = {}
        said = self._said.get(view.uuid)
        if said is None:
            said = {}
            out["known_s"] = view.known_s
            kept_of = {"history": self._histories, "state": self._states, "overflow": self._overflows}
            for name, kept in kept_of.items():
                if view.uuid in kept:
                    out[name] = kept.pop(view.uuid)
        now = {
            "name": view.name,
            "domid": view.domid,
            "type": str(view.vm_type),
            "vcpus": view.vcpus,
            "paused": view.paused,
            "agent": str(view.agent),
            "held": sorted(str(key) for key in view.held),
        }
        if now != said:
            out |= {name: value for name, value in now.items() if said.get(name) != value}
            self._said[view.uuid] = now
        signals = view.hrem
        if view.report is not None and view.report_is_new:
            signals = {**signals, **view.report.signals}
            out["report"] = _report(view.report, view)
            if view.report.destinations:
                out["destinations"] = [
                    [peer.protocol, peer.port, peer.pps, peer.syn_pps] for peer in view.report.destinations
                ]
        if signals:
            out["signals"] = signals
        if view.answer is not None and self._answered.get(view.uuid) != view.answer.ask_id:
            self._answered[view.uuid] = view.answer.ask_id
            out["answer"] = _answer(view.answer)
        return out


def _report(report: Report, view: VmView) -> dict[str, Any]:
    return {
        "seq": report.seq,
        "boot": report.boot,
        "level": report.level,
        "interval_s": report.interval_s,
        "age_s": view.report_age_s,
        "passed_s": view.passed_s,
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.ask_id,
        "load_pct": answer.load_pct,
        "near_max": answer.near_max,
        "near_max_of": answer.near_max_of,
    }


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
