# SPDX-License-Identifier: LGPL-2.1-or-later
"""The generator of VM-days: the same seed gives the same day, and what it says of it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmdays.generate import FAMILIES, host_day, profiles
from xenwarden_channel.signals import SIGNALS
from xenwarden_host.policy.load import defaults
from xenwarden_host.replay.replay import Replay

if TYPE_CHECKING:
    from pathlib import Path


def test_same_seed_gives_the_same_day_and_another_seed_another() -> None:
    first, again, other = (host_day(seed, profiles(), vms=2, interval_s=600) for seed in (1, 1, 2))
    assert first.lines == again.lines
    assert first.episodes == again.episodes
    assert first.lines != other.lines


def test_profiles_of_ones_own_are_taken_and_attacks_are_where_they_are_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "calm: {night: 1, peak: 12, noise: 0.01, spread: 1, signals: {"
        + ", ".join(f"{name}: 1" for name in SIGNALS if name[:3] in ("tx_", "rx_", "tcp", "cpu"))
        + "}}"
    )
    day = host_day(3, profiles(path), vms=2, interval_s=60)
    assert day.episodes
    for episode in day.episodes:
        key = FAMILIES[episode.family][1]
        inside = [v[key] for t, v in day.values[episode.vm] if episode.begin_s < t <= episode.end_s]
        assert min(inside) > 2
    quiet = [
        values["tx_syn_pps"]
        for t, values in day.values["calm-0"]
        if not any(e.vm == "calm-0" and e.begin_s < t <= e.end_s for e in day.episodes)
    ]
    assert max(quiet) < 2
    assert list(Replay(defaults()).run(day.lines, "day"))
