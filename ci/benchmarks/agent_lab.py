# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the agent takes of a guest on real Xen: at rest, and of its network in turns; one lab boot."""

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
NORMAL_95 = 1.645  # one-sided 95 % of the normal distribution
LEAST = {1: 0.95, 2: 0.90}
MOST_RSS_KB = {1: 12 * 1024, 2: 16 * 1024}
MOST_OWN_PCT = {1: 5.0, 2: 10.0}


def lower_bound(with_it: Sequence[float], without: Sequence[float]) -> float:
    """Return what a pair's ratio is at least, with 95 % confidence: Wilcoxon's signed-rank test, inverted.

    A machine that does other things halves a run now and then: the mean of twenty pairs would tell of these.
    The bound is an average of two pairs: Hollander and Wolfe, Nonparametric Statistical Methods, 3.3.
    """
    logs = [math.log(one / other) for one, other in zip(with_it, without, strict=True)]
    count = len(logs)
    averages = sorted((logs[i] + logs[j]) / 2 for i in range(count) for j in range(i, count))
    spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return math.exp(averages[int(count * (count + 1) / 4 - NORMAL_95 * spread)])


def run() -> list[Figure]:
    """Measure; about nine minutes where images and snapshot exist."""
    saved = {name: [value for _t, value in points] for name, points in play(SCENARIO).saved.items()}
    return [*_at_rest(saved), *_under_load(saved)]


def _at_rest(saved: dict[str, list[float]]) -> list[Figure]:
    own, collectd, exporter, rss = (
        saved[f"rest-{what}"][0] for what in ("agent", "collectd", "exporter", "rss")
    )
    return [
        figure("agent.rss_level1", rss, "kB", peer="limit", peer_value=MOST_RSS_KB[1], at_most=1),
        figure("agent.cpu_idle_collectd", own, "s/min", peer="collectd", peer_value=collectd, at_most=0.2),
        figure(
            "agent.cpu_idle_exporter", own, "s/min", peer="node-exporter", peer_value=exporter, at_most=0.1
        ),
    ]


def _under_load(saved: dict[str, list[float]]) -> list[Figure]:
    figures = []
    for level, least in LEAST.items():
        without = saved[f"stream{level}-none-rate"]
        bound = lower_bound(saved[f"stream{level}-level{level}-rate"], without)
        median = statistics.median(without)
        name = f"agent.stream_level{level}_bound"
        figures.append(
            figure(name, bound * median, "bit/s", peer="no agent", peer_value=median, at_least=least)
        )
    for name, traffic, unit in (
        ("agent.cpu_per_gb", "stream1", "s/GB"),
        ("agent.cpu_per_million_small", "small1", "s/million"),
    ):
        more = {kind: _more(saved, traffic, kind) for kind in ("level1", "softflowd")}
        figures.append(
            figure(name, more["level1"], unit, peer="softflowd", peer_value=more["softflowd"], at_most=1)
        )
    for level, most in MOST_OWN_PCT.items():
        own = statistics.median(saved[f"small{level}-level{level}-own"])
        name = f"agent.small_level{level}_own_cpu"
        figures.append(figure(name, own, "%", peer="limit", peer_value=most, at_most=1))
    rss = max(saved["small2-level2-rss"])
    figures.append(figure("agent.rss_level2", rss, "kB", peer="limit", peer_value=MOST_RSS_KB[2], at_most=1))
    return figures


def _more(saved: dict[str, list[float]], traffic: str, kind: str) -> float:
    """Return what the same traffic took more of the vCPU, run by run, than the one without beside it."""
    pairs = zip(saved[f"{traffic}-{kind}-cpu"], saved[f"{traffic}-none-cpu"], strict=True)
    return statistics.median(one - other for one, other in pairs)
