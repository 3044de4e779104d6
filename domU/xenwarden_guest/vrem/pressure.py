# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the VM should ask dom0 for more, and of what; pure.

Pressure begins at one mark and ends at a lower one, and must last before anything is asked for. After each
answer there is a pause for all resources, and after a denial one for that resource, which doubles.
"""

from __future__ import annotations

from xenwarden_guest.vrem.signals import NEAR_MAX_PCT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping

# Where pressure begins and where it ends, %.
_USED = (NEAR_MAX_PCT, 85.0)  # of memory, or of CPU together with steal
_WAITS = (20.0, 5.0)  # PSI: a fifth of the time is felt
_STEAL = (10.0, 5.0)
_QUEUE = (1.0, 1.0)  # runnable tasks per vCPU, in place of PSI
_LONGEST_PAUSE_S = 3600.0


class Rules:
    """What dom0 lets the agent ask for by itself: how much of each resource, when, and how often."""

    __slots__ = ("after_s", "every_s", "more")

    def __init__(self) -> None:
        self.more: dict[str, int] = {}  # by resource; empty: nothing
        self.after_s = 30.0
        self.every_s = 60.0


def lacks(signals: Mapping[str, float], before: Container[str]) -> list[str]:
    """Return the resources that the VM is short of; `before`, those that it was short of.

    More vCPUs are of no use where the host does not give those that are there their time; a larger weight is.
    """

    def above(what: str, value: float, marks: tuple[float, float]) -> bool:
        return value >= marks[what in before]

    get = signals.get
    steal = get("steal_pct", 0.0)
    wanted = get("cpu_pct", 0.0) + steal
    waits, marks = (
        (get("psi_cpu_pct", 0.0), _WAITS) if "psi_cpu_pct" in signals else (get("run_queue", 0.0), _QUEUE)
    )
    starved = above("weight", steal, _STEAL) and above("weight", wanted, _USED)
    short = {
        "memory": above("memory", get("mem_used_pct", 0.0), _USED)
        or above("memory", get("psi_mem_pct", 0.0), _WAITS),
        "vcpus": not starved and above("vcpus", wanted, _USED) and above("vcpus", waits, marks),
        "weight": starved,
    }
    return [what for what, is_short in short.items() if is_short]


class Pressure:
    """What the VM is short of, since when, and when it may ask again."""

    __slots__ = ("_next_s", "_pause_s", "_since_s")

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}
        self._pause_s: dict[str, float] = {}  # after the last denials, by resource
        self._next_s: dict[str, float] = {}  # by resource, and "" for all

    def due(self, signals: Mapping[str, float], rules: Rules, now_s: float) -> str:
        """Take one report's signals into account; return what to ask for now, or nothing."""
        self._since_s = {what: self._since_s.get(what, now_s) for what in lacks(signals, self._since_s)}
        for what, since_s in self._since_s.items():
            next_s = max(self._next_s.get("", 0.0), self._next_s.get(what, 0.0))
            if what in rules.more and now_s - since_s >= rules.after_s and now_s >= next_s:
                return what
        return ""

    def answered(self, what: str, rules: Rules, now_s: float, *, granted: bool) -> None:
        """Begin the pause after an answer, or after none in time."""
        self._next_s[""] = now_s + rules.every_s
        if granted:
            self._pause_s.pop(what, None)
        else:
            pause_s = min(2 * self._pause_s.get(what, rules.every_s), _LONGEST_PAUSE_S)
            self._pause_s[what] = pause_s
            self._next_s[what] = now_s + pause_s
