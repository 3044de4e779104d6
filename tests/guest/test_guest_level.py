# SPDX-License-Identifier: LGPL-2.1-or-later
"""When the agent looks closer and when it goes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenwarden_guest.level import Order, State, decide

HISTORY = {"tx_syn_pps": 20.0, "cpu_pct": 60.0}


def order(seq: int, level: int, most_s: float = 60.0) -> Order:
    made = Order()
    made.seq, made.level, made.level2_max_s = seq, level, most_s
    return made


NO_ORDER = Order()


def run(*steps: tuple[float, dict[str, float], Order]) -> State:
    state = State()
    for now_s, signals, given_order in steps:
        state = decide(state, signals, HISTORY, given_order, now_s)
    return state


def test_ordinary_signals_stay_at_level_1() -> None:
    state = run(*[(5.0 * at, {"tx_syn_pps": 19.0, "cpu_pct": 60.0}, NO_ORDER) for at in range(10)])
    assert (state.level, state.why, state.over) == (1, "", ())


def test_twice_the_limit_once_raises_and_says_why() -> None:
    state = run((0, {"tx_syn_pps": 40.0, "cpu_pct": 61.0}, NO_ORDER))
    assert (state.level, state.why) == (2, "tx_syn_pps")
    assert set(state.over) == {"tx_syn_pps", "cpu_pct"}


def test_a_little_over_raises_only_when_it_comes_twice_running() -> None:
    little: dict[str, float] = {"cpu_pct": 70.0}
    assert run((0, little, NO_ORDER)).level == 1
    assert run((0, little, NO_ORDER), (5, {"cpu_pct": 50.0}, NO_ORDER), (10, little, NO_ORDER)).level == 1
    raised = run((0, little, NO_ORDER), (5, little, NO_ORDER))
    assert (raised.level, raised.why) == (2, "cpu_pct")


def test_a_signal_without_history_and_one_that_is_missing_raise_nothing() -> None:
    assert run((0, {"fork_ps": 1e9}, NO_ORDER), (5, {}, NO_ORDER)).level == 1


def test_an_order_raises_and_the_next_one_lets_go_after_calm() -> None:
    up, down = order(1, 2), order(2, 1)
    assert run((0, {}, up)).why == "ordered"
    assert run((0, {}, up), (1, {}, down)).level == 1
    busy = {"tx_syn_pps": 500.0}
    assert run((0, busy, up), (1, busy, down), (2, busy, down)).level == 2
    assert run((0, busy, up), (1, busy, down), (2, {}, down)).level == 2  # one calm report is not calm
    assert run((0, busy, up), (1, busy, down), (2, {}, down), (3, {}, down)).level == 1


def test_an_old_order_of_level_1_does_not_end_an_anomaly_of_later() -> None:
    old = order(1, 1)
    state = run((0, {}, old), (5, {"tx_syn_pps": 500.0}, old), *[(6.0 + at, {}, old) for at in range(10)])
    assert state.level == 2


def test_the_agent_goes_back_by_itself_when_nothing_was_unusual_for_long() -> None:
    rules = order(1, 1, most_s=30.0)
    steps = [(0.0, {"tx_syn_pps": 500.0}, rules)]
    assert run(*steps, *[(1.0 + at, {}, rules) for at in range(28)]).level == 2
    assert run(*steps, *[(1.0 + at, {}, rules) for at in range(30)]).level == 1


def test_an_order_of_level_2_ends_with_its_time_too_so_that_a_lost_dom0_costs_nothing() -> None:
    up = order(1, 2, most_s=30.0)
    assert run(*[(float(at), {}, up) for at in range(30)]).level == 2
    assert run(*[(float(at), {}, up) for at in range(31)]).level == 1
    assert run(*[(float(at), {}, up) for at in range(60)]).level == 1  # not raised again by the same order


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(sorted(HISTORY)), st.floats(0, 1e6)),
            st.integers(0, 3),
            st.sampled_from([1, 2]),
        ),
        max_size=40,
    )
)
def test_any_sequence_gives_level_1_or_2_with_a_reason_at_level_2_only(
    steps: list[tuple[dict[str, float], int, int]],
) -> None:
    state = State()
    for at, (signals, seq, level) in enumerate(steps):
        state = decide(state, signals, HISTORY, order(seq, level), float(at))
        assert state.level in (1, 2)
        assert bool(state.why) == (state.level == 2)
        if any(signals.get(name, 0) >= 2 * limit for name, limit in HISTORY.items()):
            assert state.level == 2
