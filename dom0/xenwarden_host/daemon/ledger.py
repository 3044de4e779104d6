# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happened to each VM, as `xenwarden show` tells it. Bounded per VM and in the number of VMs."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from xenwarden_host.records import Level, LimitState, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.protocols import Clock
    from xenwarden_host.records import Evidence, LimitStatus, Transition

_ENTRIES_PER_VM = 200
_MAX_VMS = 2048
_LEVELS_TOLD, _LEVELS_TOLD_IN_S = 20, 600.0


class VmRecord:
    """One VM's story since the daemon started; its last verdict is older than that where it was kept."""

    def __init__(self) -> None:
        self.level = Level.ONE
        self.levels: deque[dict[str, Any]] = deque(maxlen=_ENTRIES_PER_VM)
        self.limits: deque[dict[str, Any]] = deque(maxlen=_ENTRIES_PER_VM)
        self.verdict: Verdict | None = None
        self.also_victim = False
        self.why = ""
        self.evidence: list[dict[str, Any]] = []
        self.verdict_unix_s: float | None = None
        self.released_unix_s: float | None = None


class Ledger:
    """Keep a `VmRecord` by UUID."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, VmRecord] = {}

    def record(self, uuid: str) -> VmRecord:
        """Return the VM's record, made where there is none; beyond the bound the one longest unused goes."""
        record = self._records.pop(uuid, None) or VmRecord()
        self._records[uuid] = record  # at the end of the row
        while len(self._records) > _MAX_VMS:
            del self._records[next(iter(self._records))]
        return record

    def forget(self, uuid: str) -> None:
        """Drop the VM's record."""
        self._records.pop(uuid, None)

    def note_level(self, uuid: str, level: Level) -> bool:
        """Note the level that the VM is at; return whether it changed, and has not done so too often lately.

        A guest changes its agent's level as it likes, and must not fill the audit log with that.
        """
        record = self.record(uuid)
        if record.level == level:
            return False
        record.level = level
        record.levels.append(self._stamp() | {"level": int(level)})
        many = len(record.levels) > _LEVELS_TOLD
        before_s = record.levels[-_LEVELS_TOLD - 1]["t_mono_s"] if many else 0.0
        return not many or self._clock.monotonic() - before_s > _LEVELS_TOLD_IN_S

    def note_limit(self, status: LimitStatus, *, still_held: bool) -> None:
        """Note a limit that was set or lifted."""
        record = self.record(status.uuid)
        if status.state is LimitState.SET:
            record.limits.append(
                self._stamp() | {"kind": str(status.key), "value": status.value, "original": status.original}
            )
            record.released_unix_s = None
        elif status.state is LimitState.LIFTED and not still_held:
            record.released_unix_s = self._clock.unix()

    def note_transition(self, transition: Transition) -> None:
        """Note a change of state and the verdict that it carries."""
        record = self.record(transition.uuid)
        record.why = transition.why
        record.evidence = [evidence_dict(item) for item in transition.evidence] or record.evidence
        if transition.verdict is not None:
            record.verdict = transition.verdict
            record.also_victim = transition.also_victim
            record.verdict_unix_s = self._clock.unix()

    def mono_s(self, unix_s: float | None) -> float | None:
        """Return dom0's CLOCK_MONOTONIC at `unix_s`; None where there is none or it was before boot."""
        if unix_s is None:
            return None
        value = self._clock.monotonic() - (self._clock.unix() - unix_s)
        return round(value, 3) if value >= 0 else None

    def dump(self) -> dict[str, dict[str, Any]]:
        """Return the last verdicts, for `restore` after a restart."""
        return {
            uuid: {
                "verdict": record.verdict,
                "also_victim": record.also_victim,
                "why": record.why,
                "evidence": record.evidence,
                "verdict_unix_s": record.verdict_unix_s,
                "released_unix_s": record.released_unix_s,
            }
            for uuid, record in self._records.items()
            if record.why
        }

    def restore(self, dumped: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what an earlier daemon dumped."""
        for uuid, kept in dumped.items():
            record = self.record(uuid)
            record.verdict = Verdict(kept["verdict"]) if kept["verdict"] is not None else None
            record.also_victim = bool(kept["also_victim"])
            record.why = str(kept["why"])
            record.evidence = list(kept["evidence"])
            record.verdict_unix_s = kept["verdict_unix_s"]
            record.released_unix_s = kept["released_unix_s"]

    def _stamp(self) -> dict[str, Any]:
        return {"t_mono_s": round(self._clock.monotonic(), 3), "unix_s": round(self._clock.unix(), 3)}


def evidence_dict(item: Evidence) -> dict[str, Any]:
    """Return one piece of evidence as `show --json` prints it."""
    return {
        "signal": item.signal,
        "value": item.value,
        "usual": item.usual,
        "unit": item.unit,
        "source": item.source,
        "rule": item.rule,
        "text": item.text,
    }
