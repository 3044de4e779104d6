# SPDX-License-Identifier: LGPL-2.1-or-later
"""Detectors that one would take instead: scores per report, on the same signals of the same VMs.

Each scores a VM's report from 0 (ordinary) upwards; over a threshold it would raise an alarm. All look
upwards only, as HSEM does, on the logarithm, as HSEM does: what differs is how they know what is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from river import anomaly, drift

Values = Mapping[str, float]
Scorer = Callable[[Values], float]

_EWMA = 0.005  # weight of the newest: a memory of some hours, as HSEM's at its begin
_CLIP = 3.0  # no value counts for more deviations than this
_WARM = 60  # reports before the first score, as HSEM's enough_observations


def _logs(values: Values) -> dict[str, float]:
    return {name: math.log1p(value) for name, value in values.items()}


def ewma() -> Scorer:
    """Return the clipped EWMA z-score: the largest over all signals."""
    state: dict[str, tuple[int, float, float]] = {}

    def score(values: Values) -> float:
        most = 0.0
        for name, y in _logs(values).items():
            count, mean, var = state.get(name, (0, y, 0.0))
            sigma = math.sqrt(var) + 0.05
            z = (y - mean) / sigma
            if count >= _WARM:
                most = max(most, z)
            weight = max(_EWMA, 1 / (count + 1))
            step = max(-_CLIP, min(_CLIP, z)) * sigma if count >= _WARM else y - mean
            mean += weight * step
            var += weight * (step * step - var)
            state[name] = (count + 1, mean, var)
        return most

    return score


def cusum() -> Scorer:
    """Return one-sided CUSUM of the z-score with an allowance of half a deviation: the largest sum."""
    state: dict[str, tuple[int, float, float, float]] = {}

    def score(values: Values) -> float:
        most = 0.0
        for name, y in _logs(values).items():
            count, mean, var, total = state.get(name, (0, y, 0.0, 0.0))
            sigma = math.sqrt(var) + 0.05
            z = max(-_CLIP, min(_CLIP, (y - mean) / sigma)) if count >= _WARM else 0.0
            total = min(max(0.0, total + z - 0.5), 2000.0)
            most = max(most, total)
            weight = max(_EWMA, 1 / (count + 1))
            step = z * sigma if count >= _WARM else y - mean
            mean += weight * step
            var += weight * (step * step - var)
            state[name] = (count + 1, mean, var, total)
        return most

    return score


def half_space_trees() -> Scorer:
    """Return river's half-space trees over all signals together, each by its place in its range."""
    trees = anomaly.HalfSpaceTrees(n_trees=10, height=6, window_size=250, seed=1)
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    seen = 0

    def score(values: Values) -> float:
        nonlocal seen
        seen += 1
        row = {}
        for name, y in _logs(values).items():
            low[name] = min(low.get(name, y), y)
            high[name] = max(high.get(name, y + 1.0), y)
            row[name] = (y - low[name]) / (high[name] - low[name])
        found: float = trees.score_one(row) if seen > _WARM else 0.0
        trees.learn_one(row)
        return found

    return score


def adwin(delta: float) -> Scorer:
    """Return river's ADWIN per signal: 1 where the mean of any has just risen, by confidence `delta`."""
    windows: dict[str, drift.ADWIN] = {}

    def score(values: Values) -> float:
        risen = 0.0
        for name, y in _logs(values).items():
            window = windows.get(name)
            if window is None:
                window = windows[name] = drift.ADWIN(delta=delta, clock=4)
            before = window.estimation
            window.update(y)
            if window.drift_detected and window.estimation > before:
                risen = 1.0
        return risen

    return score


ADWIN_DELTAS = (1e-12, 1e-8, 1e-5, 1e-3, 0.02)
