# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each VM's signals were in the last hours, for a report: bounded, coarser with age, in memory only.

Per VM and signal two rings of 32-bit floats hold the highest value of each step: ten minutes by 2 s and
two hours by 30 s, 2.2 kB together. A signal that was never above 0 has none; one that has was 0 before.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_GONE_MAX, _GONE_S = 32, 7200.0  # VMs that are gone of which samples are kept, and for how long
_RINGS = ((2.0, 300), (30.0, 240))  # seconds of a step, steps


class _Ring:
    """The highest value in each step, by signal; NaN where there was none. The last step is open yet."""

    __slots__ = ("_columns", "_first_slot", "_last_slot", "_open", "_size", "step_s")

    @property
    def last_unix_s(self) -> float:
        """When the last step began."""
        return self._last_slot * self.step_s

    def __init__(self, step_s: float, size: int) -> None:
        self.step_s = step_s
        self._size = size
        self._columns: dict[str, array[float]] = {}
        self._open: Mapping[str, float] = {}
        self._first_slot: int | None = None
        self._last_slot = 0

    def note(self, unix_s: float, values: Mapping[str, float]) -> Mapping[str, float] | None:
        """Take values, which nobody changes any more; return those of the step that they end, if they do."""
        slot = int(unix_s // self.step_s)
        if slot == self._last_slot and self._first_slot is not None:
            merged = dict(self._open)
            for name, value in values.items():
                if value > merged.get(name, -1.0):
                    merged[name] = value
            self._open = merged
            return None
        ended = self._open if slot > self._last_slot else None
        if self._first_slot is None or not 0 <= slot - self._last_slot < self._size:
            self._columns.clear()  # the clock was set, or nothing was noted for as long as the ring is
            self._first_slot, self._last_slot = slot, slot
        else:
            self._close()
        self._open = values
        for passed in range(self._last_slot + 1, slot + 1):
            for column in self._columns.values():
                column[passed % self._size] = math.nan
        self._last_slot = slot
        return ended

    def _close(self) -> None:
        """Put the open step where it stays."""
        slot, columns = self._last_slot, self._columns
        index = slot % self._size
        for name, value in self._open.items():
            column = columns.get(name)
            if column is None:
                if not value:
                    continue
                column = columns[name] = array("f", [math.nan]) * self._size
                for seen in range(max(self._first_slot or 0, slot - self._size + 1), slot):
                    column[seen % self._size] = 0.0
            column[index] = value

    def rows(self, since_unix_s: float) -> list[tuple[float, dict[str, float]]]:
        """Return the time and the values of each step that has some."""
        if self._first_slot is None:
            return []
        self._close()
        first = max(self._first_slot, self._last_slot - self._size + 1, int(since_unix_s // self.step_s))
        out = []
        for slot in range(first, self._last_slot + 1):
            index = slot % self._size
            values = {name: column[index] for name, column in self._columns.items()}
            known = {name: float(f"{value:.6g}") for name, value in values.items() if not math.isnan(value)}
            if known:
                out.append((slot * self.step_s, known))
        return out


class Samples:
    """Keep samples of the VMs that run, and for a while of some that are gone: they may be why one looks."""

    def __init__(self) -> None:
        self._vms: dict[str, tuple[_Ring, ...]] = {}  # who was noted last stands last

    def note(self, unix_s: float, vms: Mapping[str, Mapping[str, float]]) -> None:
        """Note the signals of all VMs that run, by UUID."""
        for uuid, values in vms.items():
            rings = self._vms.pop(uuid, None) or tuple(_Ring(*shape) for shape in _RINGS)
            self._vms[uuid] = rings
            fine, coarse = rings
            before_s = fine.last_unix_s
            if ended := fine.note(unix_s, values):
                coarse.note(before_s, ended)
        while len(self._vms) > len(vms):
            uuid, rings = next(iter(self._vms.items()))
            if len(self._vms) <= len(vms) + _GONE_MAX and unix_s - rings[0].last_unix_s < _GONE_S:
                break
            del self._vms[uuid]

    def rows(self, uuid: str, since_unix_s: float) -> list[tuple[float, dict[str, float]]]:
        """Return times and values, oldest first: coarse ones up to where the fine ones begin."""
        rings = self._vms.get(uuid)
        if rings is None:
            return []
        fine, coarse = (ring.rows(since_unix_s) for ring in rings)
        begin = fine[0][0] if fine else math.inf
        return [row for row in coarse if row[0] + rings[1].step_s <= begin] + fine
