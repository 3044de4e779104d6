# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look-alikes of what is published: a VM's counter, or a link's flows, some minutes apart."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import pytest

from xenwarden_host.policy.load import defaults
from xenwarden_host.replay.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DAY_S = 86400
EVERY_S = 300
Values = dict[str, float]


def play(rows: Iterable[Values]) -> list[dict[str, Any]]:
    lines = [json.dumps({"xenwarden_recording": 1, "interval_s": EVERY_S}).encode()]
    lines += [
        json.dumps({"t": number * EVERY_S, "vm": "a", "signals": values}).encode()
        for number, values in enumerate(rows, 1)
    ]
    return list(Replay(defaults()).run(lines, ""))


def alarms(events: list[dict[str, Any]], since_s: float = DAY_S) -> list[float]:
    return [event["t"] for event in events if event["event"] == "alarm" and event["t"] > since_s]


def counter(days: int, at: Callable[[float, random.Random], float]) -> list[Values]:
    noise = random.Random(1)  # noqa: S311  no secret
    return [
        {"cpu_pct": max(0.0, min(100.0, at(step * EVERY_S, noise)))}
        for step in range(days * DAY_S // EVERY_S)
    ]


def by_day(t: float) -> float:
    return 0.5 + 0.5 * math.cos(2 * math.pi * t / DAY_S)


ORDINARY: dict[str, Callable[[float, random.Random], float]] = {
    "next to nothing": lambda _t, noise: 0.3 * math.exp(0.15 * noise.gauss(0, 1)),
    "steady": lambda _t, noise: 40 + 2 * noise.gauss(0, 1),
    "by day": lambda t, noise: (15 + 45 * by_day(t)) * (1 + 0.08 * noise.gauss(0, 1)),
    "each hour": lambda t, noise: 3 + 0.3 * noise.gauss(0, 1) + (30 if t % 3600 < 600 else 0),
    "each night": lambda t, noise: 10 + noise.gauss(0, 1) + (75 if t % DAY_S < 7200 else 0),
    "heavy tails": lambda _t, noise: 5 * math.exp(0.6 * noise.gauss(0, 1)),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_load_of_any_shape_raises_next_to_no_alarm(kind: str) -> None:
    events = play(counter(14, ORDINARY[kind]))
    assert len(alarms(events)) <= 2
    assert not any(event["event"] in ("verdict", "limit") for event in events)


@pytest.mark.parametrize("kind", ["next to nothing", "steady", "each hour", "heavy tails"])
@pytest.mark.parametrize("change", ["stops", "far more"])
def test_change_of_a_load_is_alarmed_once_and_again_the_next_time(kind: str, change: str) -> None:
    times = {"stops": 0.005, "far more": 12.0 if kind == "heavy tails" else 2.4}[change]
    begins = (5.6 * DAY_S, 11.6 * DAY_S)

    def at(t: float, noise: random.Random) -> float:
        value = ORDINARY[kind](t, noise)
        return value * times if any(begin_s <= t < begin_s + 2 * 3600 for begin_s in begins) else value

    found = alarms(play(counter(14, at)))
    for begin_s in begins:
        assert 1 <= len([t for t in found if begin_s <= t <= begin_s + 4 * 3600]) <= 2
    assert len(found) <= 6


def link(days: int, per_s: float, way: str, floods: Iterable[tuple[float, float]]) -> list[Values]:
    """A link's connections, packets and addresses; floods of SYN by when they begin, and how many."""
    noise = random.Random(2)  # noqa: S311  likewise
    rows = []
    for step in range(days * DAY_S // EVERY_S):
        t = step * EVERY_S
        flows = per_s * (0.4 + 0.6 * by_day(t)) * math.exp(0.05 * noise.gauss(0, 1))
        more = sum(per_s * times for begin_s, times in floods if begin_s <= t < begin_s + 900)
        addresses = "tx_dests" if way == "tx" else "rx_sources"
        rows.append(
            {
                f"{way}_syn_pps": flows + more,
                f"{way}_pps": 15 * flows + more,
                addresses: 0.6 * (EVERY_S * flows) ** 0.85,
            }
        )
    return rows


@pytest.mark.parametrize("way", ["tx", "rx"])
@pytest.mark.parametrize("per_s", [2.0, 5000.0])
def test_flood_on_a_link_of_any_size_is_alarmed_each_time(way: str, per_s: float) -> None:
    floods = [(day * DAY_S + 7.3 * 3600, 1.0) for day in (2, 4, 6)]
    found = alarms(play(link(8, per_s, way, floods)))
    for begin_s, _times in floods:
        assert any(begin_s < t <= begin_s + 900 + EVERY_S for t in found)
    assert len(found) <= 8


@pytest.mark.parametrize("way", ["tx", "rx"])
def test_who_is_busier_than_a_history_may_grow_is_let_alone_with_that(way: str) -> None:
    """Far beyond what policy lets a VM's history learn, and no attack's way: few alarms, no verdict."""
    flood_s = 5 * DAY_S + 7.3 * 3600
    events = play(link(9, 5000.0, way, [(flood_s, 3.0)]))
    assert len(alarms(events)) <= 6
    verdicts = [
        event["t"] for event in events if event["event"] == "verdict" and event["verdict"] != "neither"
    ]
    assert verdicts
    assert all(flood_s < t <= flood_s + 1800 for t in verdicts)
    limited = [event["t"] for event in events if event["event"] in ("limit", "lift")]
    assert all(flood_s < t <= flood_s + 3600 for t in limited)
    ends = [event["new"] for event in events if event["event"] == "state"]
    assert ends[-1] == "normal"


def play_at(rows: Iterable[tuple[float, Values]], every_s: int = EVERY_S) -> list[dict[str, Any]]:
    lines = [json.dumps({"xenwarden_recording": 1, "interval_s": every_s}).encode()]
    lines += [json.dumps({"t": t, "vm": "a", "signals": values}).encode() for t, values in rows]
    return list(Replay(defaults()).run(lines, ""))


def test_source_that_is_seen_now_and_then_is_known_after_some_hours() -> None:
    """It is silent for most minutes, and has heavy tails; what it sends is of a kind that nobody counted."""
    noise = random.Random(3)  # noqa: S311  likewise
    begin_s = 11 * 3600
    rows = []
    for t in range(0, 12 * 3600, 60):
        flood = begin_s <= t < begin_s + 600
        if flood or noise.random() < 0.3:
            rows.append((t, {"tx_pps": 6000.0 if flood else 2 * math.exp(noise.gauss(0, 1))}))
    found = alarms(play_at(rows, 60), 0)
    assert begin_s in found
    assert len(found) <= 3


def test_far_more_than_ever_is_told_of_a_signal_that_is_mostly_nothing() -> None:
    noise = random.Random(4)  # noqa: S311  likewise
    begin_s = 11 * DAY_S + 7200

    def at(t: float) -> float:
        if begin_s <= t < begin_s + 3600:
            return 5e6
        if t % DAY_S < 900:  # each night
            return 1.4e5
        return 7e3 if noise.random() < 0.06 else 0.0

    found = alarms(play([{"disk_bps": at(step * EVERY_S)} for step in range(1, 14 * 288)]))
    assert any(begin_s <= t <= begin_s + 7200 for t in found)
    assert len(found) <= 4


def test_five_minutes_of_all_its_cpu_now_and_then_limit_nothing() -> None:
    full = {2 * 288, 11 * 288 + 100}  # so far apart that the first is half forgotten
    events = play([{"cpu_pct": 100.0 if step in full else 5.0 + step % 3} for step in range(14 * 288)])
    assert {event["event"] for event in events} <= {"alarm"}
    assert {rule for event in events for rule in event["rules"]} == {"unusual-load"}
