# SPDX-License-Identifier: LGPL-2.1-or-later
"""When the agent looks closer: level 1 or 2, decided from the signals and the brief history; pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STRONG_FACTOR = 2.0  # this far over the history once, or over it twice running, is an anomaly
CALM_REPORTS = 2  # reports without anomaly before the agent goes back


class Order:
    """What dom0 orders; the values here hold until it does."""

    __slots__ = ("level", "level1_s", "level2_max_s", "level2_s", "networks", "seq")

    def __init__(self) -> None:
        self.seq = -1
        self.level = 1
        self.level1_s = 5.0
        self.level2_s = 1.0
        self.level2_max_s = 60.0
        self.networks = ""


class State:
    """The level and what led to it."""

    __slots__ = ("calm", "last_anomaly_s", "level", "order_seq", "over", "released", "why")

    def __init__(self) -> None:
        self.level = 1
        self.why = ""  # the signal that raised it, or "ordered"
        self.over: tuple[str, ...] = ()  # signals above the history in the last report
        self.calm = 0  # reports without anomaly, running
        self.last_anomaly_s = 0.0
        self.order_seq = -1  # the last order that was looked at
        self.released = False  # dom0 ordered level 1 since the level was raised


def over_history(signals: Mapping[str, float], history: Mapping[str, float]) -> dict[str, float]:
    """Return, for each signal above its usual upper limit, how many times that limit it is."""
    found = {}
    for name, limit in history.items():
        value = signals.get(name)
        if value is not None and value > limit:
            found[name] = value / limit if limit > 0 else STRONG_FACTOR
    return found


def strongest(over: Mapping[str, float]) -> str:
    """Return the signal that is furthest above its history; empty where none is."""
    return max(over, key=over.__getitem__) if over else ""


def decide(
    state: State, signals: Mapping[str, float], history: Mapping[str, float], order: Order, now_s: float
) -> State:
    """Return the state after one report's signals.

    Up: at once on an anomaly or an order of level 2. Down: after CALM_REPORTS without anomaly, when
    dom0 has ordered level 1 since, or level2_max_s passed without anomaly and without order.
    """
    over = over_history(signals, history)
    repeated = {name: factor for name, factor in over.items() if name in state.over}
    strong = {name: factor for name, factor in over.items() if factor >= STRONG_FACTOR}
    anomaly = strongest(strong) or strongest(repeated)

    new = State()
    new.over = tuple(over)
    new.level, new.why = state.level, state.why
    new.last_anomaly_s = state.last_anomaly_s
    new.released = state.released
    new.order_seq = order.seq
    new.calm = 0 if anomaly else state.calm + 1
    if order.seq != state.order_seq:
        new.released = order.level == 1
        if order.level == 2:
            new.last_anomaly_s = now_s
            if state.level == 1:
                new.level, new.why = 2, "ordered"
    if anomaly:
        new.last_anomaly_s = now_s
        if state.level == 1 or state.why == "ordered":
            new.why = anomaly
        if new.level == 1:
            new.released = False
            new.level = 2
    elif new.level == 2 and new.calm >= CALM_REPORTS:
        expired = now_s - new.last_anomaly_s >= order.level2_max_s
        if new.released or expired:
            new.level, new.why, new.released = 1, "", False
    return new
