# SPDX-License-Identifier: LGPL-2.1-or-later
"""The generator of VM-days: the same seed gives the same day, and what it says of it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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


@pytest.mark.parametrize("seed", [1, 2])
def test_vms_that_flood_one_together_are_found_in_days_of_ordinary_life(seed: int) -> None:
    """Each sends a third of twice to three times what is usual for the one, beside what it does anyway."""
    day = host_day(seed, profiles(), vms=6, interval_s=60, attacks_per_day=0, together=3)
    events = list(Replay(defaults()).run(day.lines, "day"))
    found = {
        (episode.vm, episode.begin_s)
        for episode in day.episodes
        for event in events
        if event["event"] == "verdict"
        and (event["vm"], event["verdict"]) == (episode.vm, episode.truth)
        and episode.begin_s <= event["t"] <= episode.end_s
    }
    assert found == {(episode.vm, episode.begin_s) for episode in day.episodes}
    for event in events:
        if event["event"] == "verdict" and event["verdict"] != "neither":
            assert any(
                episode.vm == event["vm"] and episode.begin_s <= event["t"] <= episode.end_s + 120
                for episode in day.episodes
            )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_spoofers_are_found_and_who_takes_over_an_address_is_not(seed: int) -> None:
    day = host_day(seed, profiles(), vms=4, interval_s=60, attacks_per_day=0, spoofs=True)
    events = list(Replay(defaults()).run(day.lines, "day"))
    judged = {
        (event["vm"], event["verdict"], episode)
        for event in events
        if event["event"] == "verdict" and event["verdict"] != "neither"
        for episode in [
            next(
                (e for e in day.episodes if e.vm == event["vm"] and e.begin_s <= event["t"] <= e.end_s + 60),
                None,
            )
        ]
    }
    assert judged == {(episode.vm, episode.truth, episode) for episode in day.episodes}
