# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is usual is learnt, in bounded space, and cannot be pushed up quickly or without end."""

from __future__ import annotations

import json
import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_host.hrem.history import History
from xenwarden_host.policy.load import defaults

if TYPE_CHECKING:
    from collections.abc import Callable

POLICY = defaults()
PRIOR = POLICY.profiles["unknown"]["tx_syn_pps"]
LEARN = POLICY.history
DAY_S = 86400
SIGNALS = ("tx_syn_pps", "rx_syn_pps", "vcpu_pct")


def upper(history: History, uuid: str = "a") -> float:
    value = history.upper(uuid, "tx_syn_pps")
    assert value is not None
    return value


def teach(history: History, values: list[float], interval_s: float = 5.0, uuid: str = "a") -> None:
    for index, value in enumerate(values):
        history.learn(uuid, {"tx_syn_pps": value}, interval_s, index * interval_s)


def test_unknown_vm_has_the_prior_of_its_profile() -> None:
    history = History(POLICY)
    assert upper(history) == PRIOR
    history.profile("a", "web")
    assert upper(history) == POLICY.profiles["web"]["tx_syn_pps"]
    assert history.upper("a", "no_such_signal") is None
    assert not history.learnt("a", "tx_syn_pps")


def test_busy_vm_gets_room_above_its_own_95th_percentile() -> None:
    # Lognormal values in an order that is as good as random, and always the same.
    quantiles = [(index * 7919 % 20000 + 0.5) / 20000 for index in range(20000)]
    values = [math.exp(NormalDist(4.2, 0.25).inv_cdf(quantile)) for quantile in quantiles]
    history = History(POLICY)
    teach(history, values)
    p95 = sorted(values)[int(0.95 * len(values))]
    assert history.learnt("a", "tx_syn_pps")
    assert upper(history) == pytest.approx(LEARN.margin * p95, rel=0.2)


def test_idle_vm_keeps_the_floor() -> None:
    history = History(POLICY)
    teach(history, [0.0, 0.1] * 2000)
    assert upper(history) == pytest.approx(LEARN.floor * PRIOR)
    assert history.brief("a", SIGNALS).learnt


def test_prior_and_learnt_are_blended_until_enough_is_seen() -> None:
    history = History(POLICY)
    teach(history, [0.0] * 30)
    assert LEARN.floor * PRIOR < upper(history) < PRIOR
    assert not history.brief("a", SIGNALS).learnt


def test_one_spike_changes_little() -> None:
    history = History(POLICY)
    teach(history, [40.0] * 5000)
    before = upper(history)
    teach(history, [1e9])
    assert upper(history) == pytest.approx(before, rel=0.01)


def test_slow_poisoning_takes_days_for_each_factor_and_ends_at_the_ceiling() -> None:
    """The attacker knows the limit and stays just below it, all the time, from the VM's first minute on."""
    history = History(POLICY)
    hour_s = 3600.0
    limit = PRIOR
    history.learn("a", {"tx_syn_pps": limit}, hour_s, 0)
    highest = [limit] * 24
    for hour in range(1, 24 * 30):
        history.set_time(hour * hour_s)
        before = upper(history)
        history.learn("a", {"tx_syn_pps": 0.99 * before}, hour_s, hour * hour_s)
        # From one day to the next, whatever the hour.
        assert upper(history) <= max(PRIOR, highest[hour % 24]) * LEARN.rise_per_day * 1.0001
        assert upper(history) <= PRIOR * LEARN.rise_per_day ** (hour / 24 + 1) * 1.0001
        highest[hour % 24] = upper(history)
    assert upper(history) <= LEARN.ceiling * PRIOR * 1.0001


def days(history: History, count: int, signal: Callable[[int], float], first: int = 0) -> list[list[float]]:
    """Live so many days, `signal` by hour of the day; return the limit at the begin of each hour."""
    limits: list[list[float]] = []
    for day in range(first, first + count):
        limits.append([])
        for hour in range(24):
            begin_s = (day * 24 + hour) * 3600.0
            history.set_time(begin_s)
            limits[-1].append(upper(history))
            for step in range(60):
                history.learn("a", {"tx_syn_pps": signal(hour)}, 60.0, begin_s + step * 60)
    return limits


def test_a_job_of_each_night_is_usual_at_night_and_at_no_other_time() -> None:
    history = History(POLICY)
    limits = days(history, 6, lambda hour: 1.4 * PRIOR if hour == 2 else 0.6 * PRIOR)
    assert all(limit < 2 * PRIOR for limit in limits[0])
    # Margin times what it does at night; the hours beside it are given the same: jobs drift.
    assert limits[5][2] > 2.4 * PRIOR
    assert limits[5][14] == pytest.approx(LEARN.margin * 0.6 * PRIOR, rel=0.05)
    known = [limit for limit in history.hours("a", "tx_syn_pps") if limit is not None]
    assert len(known) == 24
    assert known[14] == pytest.approx(limits[5][14], rel=0.05)
    history.set_time(2 * 3600.0)
    assert upper(history) > 2.4 * PRIOR


def test_what_is_far_from_ordinary_becomes_usual_in_weeks_also_of_an_hour() -> None:
    history = History(POLICY)
    limits = days(history, 12, lambda hour: 20 * PRIOR if hour == 2 else 0.6 * PRIOR)
    most = LEARN.slow_above * LEARN.rise_per_day * PRIOR
    assert LEARN.slow_above * PRIOR < limits[7][2] < most
    assert limits[11][2] == pytest.approx(limits[7][2] * LEARN.slow_rise_per_day**4, rel=0.05)


def test_an_hour_that_was_seen_on_too_few_days_has_the_limit_of_all_hours() -> None:
    history = History(POLICY)
    days(history, 2, lambda hour: PRIOR if hour == 2 else 0.1 * PRIOR)
    assert history.hours("a", "tx_syn_pps") == [None] * 24
    found = []
    for hour in range(24):
        history.set_time(hour * 3600.0)
        found.append(upper(history))
    assert len(set(found)) == 1


def test_the_night_of_an_attack_does_not_make_the_next_one_usual() -> None:
    """What it does once in an hour that is known moves that hour by no more than a day may."""
    history = History(POLICY)
    days(history, 5, lambda _hour: 0.4 * PRIOR)
    limits = days(history, 2, lambda hour: 50 * PRIOR if hour == 2 else 0.4 * PRIOR, first=5)
    assert limits[1][2] <= LEARN.rise_per_day * PRIOR


def test_hours_survive_a_dump_and_another_policy() -> None:
    history = History(POLICY)
    days(history, 5, lambda hour: 1.4 * PRIOR if hour == 2 else 0.6 * PRIOR)
    again = History(POLICY)
    again.restore("a", json.loads(json.dumps(history.dump("a", hours=False))))
    again.restore_hours("a", json.loads(json.dumps(history.dump_hours("a"))))
    assert again.hours("a", "tx_syn_pps") == history.hours("a", "tx_syn_pps")
    for each in (history, again):
        each.set_time(2 * 3600.0)
    assert upper(again) == upper(history) > 2.4 * PRIOR
    again.profile("a", "web")  # another prior: what it did stays what it did
    teach(again, [1.4 * PRIOR] * 10)
    assert upper(again) == pytest.approx(LEARN.margin * 1.4 * PRIOR, rel=0.1)


def test_an_hour_goes_on_where_a_dump_left_it() -> None:
    history = History(POLICY)
    days(history, 5, lambda hour: 3 * PRIOR if hour == 2 else 0.6 * PRIOR)
    history.set_time(2 * 3600.0)
    teach(history, [5 * PRIOR] * 100)  # in the middle of it
    again = History(POLICY)
    again.set_time(2 * 3600.0)
    again.restore("a", json.loads(json.dumps(history.dump("a"))))
    for each in (history, again):
        teach(each, [5 * PRIOR] * 100)
    assert upper(again) == pytest.approx(upper(history), rel=1e-5)
    assert again.hours("a", "tx_syn_pps") == pytest.approx(history.hours("a", "tx_syn_pps"), rel=1e-5)
    for each in (history, again):
        each.set_time(3 * 3600.0)
    assert upper(again) == pytest.approx(upper(history), rel=1e-5)


@pytest.mark.parametrize("change", [{"p95": "?"}, {"seen_s": ""}, {"signals": []}, {"priors": []}])
def test_hours_that_are_none_are_refused(change: dict[str, object]) -> None:
    history = History(POLICY)
    teach(history, [1.0])
    with pytest.raises(ValueError, match="hour"):
        history.restore("a", {**history.dump("a"), "hours": {**history.dump_hours("a"), **change}})


def test_frozen_vm_learns_nothing() -> None:
    history = History(POLICY)
    teach(history, [40.0] * 100)
    history.freeze("a", frozen=True)
    before = history.dump("a")
    teach(history, [1000.0] * 100)
    assert history.dump("a") == before
    history.freeze("a", frozen=False)
    teach(history, [90.0] * 100)
    assert history.dump("a") != before


def test_space_does_not_grow_with_time() -> None:
    history = History(POLICY)
    signals = dict.fromkeys(POLICY.profiles["unknown"], 1.0)
    history.learn("a", signals, 5.0, 0)
    few = len(json.dumps(history.dump("a")))
    for index in range(5000):
        history.learn("a", dict.fromkeys(signals, index % 97 + 0.123456789), 5.0, index * 5.0)
    assert len(json.dumps(history.dump("a"))) < max(2 * few, 4096)


def test_dump_and_restore_give_the_same_limits_also_over_json() -> None:
    history = History(POLICY)
    history.profile("a", "web")
    teach(history, [150.0, 3.0, 180.0] * 500)
    history.learn("a", {"vcpu_pct": 95.0}, 5.0, 0)
    again = History(POLICY)
    again.restore("a", json.loads(json.dumps(history.dump("a"))))
    assert upper(again) == pytest.approx(upper(history))
    assert again.near_capacity("a") == (1, 1)
    assert again.uuids() == ["a"]
    for each in (history, again):
        teach(each, [10.0] * 50)
    assert upper(again) == pytest.approx(upper(history))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"version": 0},
        {"version": 1, "profile": "web"},
        {"version": 1, "profile": 3, "near": [1, 2], "signals": {"tx_syn_pps": "x"}},
    ],
)
def test_what_is_no_dump_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="history"):
        History(POLICY).restore("a", data)


def test_near_capacity_is_counted() -> None:
    history = History(POLICY)
    for cpu in (10.0, 95.0, 100.0):
        history.learn("a", {"vcpu_pct": cpu}, 5.0, 0)
    assert history.near_capacity("a") == (2, 3)


def test_vms_long_gone_are_forgotten_and_idle_ones_are_not() -> None:
    history = History(POLICY)
    for uuid in "abc":
        history.learn(uuid, {"tx_syn_pps": 1.0}, 5.0, 0.0)
    history.learn("b", {"tx_syn_pps": 1.0}, 5.0, LEARN.forget_s)
    assert history.expire(["c"], LEARN.forget_s + 1) == ["a"]
    assert history.uuids() == ["b", "c"]


@given(st.lists(st.floats(0, 1e15, allow_nan=False), max_size=50), st.floats(0.1, 1e6))
def test_any_values_keep_the_limit_within_its_bounds(values: list[float], interval_s: float) -> None:
    history = History(POLICY)
    teach(history, values, interval_s)
    assert LEARN.floor * PRIOR * 0.999 <= upper(history) <= LEARN.ceiling * PRIOR * 1.001
