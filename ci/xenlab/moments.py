# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a scenario's run produced, on one time line: seconds since the first step."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xenlab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(slots=True)
class Outcome:
    """All that was seen in one run; the result and the expectations are made of it."""

    scenario: str
    description: str
    host: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    guests: dict[str, dict[str, Any]] = field(default_factory=dict)
    daemon: dict[str, Any] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    saved: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # (t_s, number) pairs
    before: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # what limits stood on each guest, at first
    after: dict[str, dict[str, str]] = field(default_factory=dict)  # and at last
    failures: list[str] = field(default_factory=list)
    emulator_faults: list[str] = field(default_factory=list)  # why earlier attempts do not count

    def moment(self, name: str | float) -> float | None:
        """Return the t_s of a moment: seconds, a step's start, or what happened to a guest; None: never."""
        if isinstance(name, (int, float)):
            return float(name)
        subject, _, what = name.partition(".")
        if not what:
            return next((s["t_s"] for s in self.steps if s.get("name") == subject), None)
        guest = self.guests.get(subject, {})
        if what == "limited":
            return min((limit["t_s"] for limit in guest.get("limits", ())), default=None)
        if what == "level2":
            return min((x["t_s"] for x in guest.get("levels", ()) if x["level"] == 2), default=None)
        moment: float | None = guest.get(f"{what}_t_s")
        return moment

    def figure(self, figure: Mapping[str, Any]) -> float:
        """Return the number that a `figure` of the scenario describes. LabError where it cannot be told."""
        of = figure["of"]
        if of not in self.saved:
            raise LabError(f"nothing was saved as {of}: its step did not end")
        start, end = float("-inf"), float("inf")
        if "from" in figure:
            start = self._moment(figure["from"]) + figure.get("delay", 0)
        if "to" in figure:
            end = self._moment(figure["to"])
        if "for" in figure:
            end = min(end, start + figure["for"])
        points = [(t, n) for t, n in self.saved[of] if start <= t <= end]
        if len(points) < (2 if figure["take"] == "rate" else 1):
            raise LabError(f"{of} has no numbers between {start:.1f} s and {end:.1f} s")
        return _TAKE[figure["take"]](points) * float(figure.get("times", 1))

    def _moment(self, name: str | float) -> float:
        moment = self.moment(name)
        if moment is None:
            raise LabError(f"{name} never came")
        return moment


Points = list[tuple[float, float]]


def _numbers(take: Callable[[list[float]], float]) -> Callable[[Points], float]:
    return lambda points: float(take([n for _, n in points]))


def _rate(points: Points) -> float:
    (t0, n0), (t1, n1) = points[0], points[-1]
    return (n1 - n0) / (t1 - t0)


_TAKE: dict[str, Callable[[Points], float]] = {
    "median": _numbers(statistics.median),
    "mean": _numbers(statistics.fmean),
    "min": _numbers(min),
    "max": _numbers(max),
    "sum": _numbers(sum),
    "count": _numbers(len),
    "first": _numbers(lambda n: n[0]),
    "last": _numbers(lambda n: n[-1]),
    "rate": _rate,  # of a counter: how much it rose per second
}
