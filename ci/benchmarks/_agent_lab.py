# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the agent takes of a guest's network on real Xen: alternated runs of iperf3, in one lab boot."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._play import play
from benchmarks.figures import Figure, figure

if TYPE_CHECKING:
    from collections.abc import Sequence

SCENARIO = Path(__file__).with_name("agent.yaml")
STUDENT_95 = 1.729  # one-sided 95 % of Student's t with 19 degrees of freedom: 20 pairs
LEAST = {1: 0.95, 2: 0.90}


def lower_bound(with_it: Sequence[float], without: Sequence[float]) -> float:
    """Return the lower end of what the mean ratio of 20 pairs is with 95 % confidence."""
    logs = [math.log(one / other) for one, other in zip(with_it, without, strict=True)]
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(statistics.mean(logs) - STUDENT_95 * error)


def run() -> list[Figure]:
    """Measure; about nine minutes where images and snapshot exist."""
    saved = {name: [value for _t, value in points] for name, points in play(SCENARIO).saved.items()}
    figures = []
    for level, least in LEAST.items():
        without = saved[f"stream{level}-none-rate"]
        bound = lower_bound(saved[f"stream{level}-level{level}-rate"], without)
        mean = statistics.geometric_mean(without)
        name = f"agent.stream_level{level}_bound"
        figures.append(figure(name, bound * mean, "bit/s", peer="no agent", peer_value=mean, at_least=least))
    for name, traffic, unit in (
        ("agent.cpu_per_gb", "stream1", "s/GB"),
        ("agent.cpu_per_million_small", "small", "s/million"),
    ):
        cpu = {
            kind: statistics.median(saved[f"{traffic}-{kind}-cpu"])
            for kind in ("none", "level1", "softflowd")
        }
        figures.append(
            figure(
                name, cpu["level1"] - cpu["none"], unit,
                peer="softflowd", peer_value=cpu["softflowd"] - cpu["none"], at_most=1,
            )
        )  # fmt: skip
    return figures
