# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happened to each VM, as it is told."""

from __future__ import annotations

from xenwarden_host.daemon.ledger import Ledger
from xenwarden_host.records import Level


class Clock:
    """Both clocks, set apart from each other."""

    def __init__(self) -> None:
        self.now_s, self.now_unix_s = 1000.0, 1.7e9

    def monotonic(self) -> float:
        return self.now_s

    def unix(self) -> float:
        return self.now_unix_s


def test_changes_of_level_are_told_though_the_clock_was_set_back() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    told = []
    for number in range(1, 50):
        clock.now_s += 60.0
        clock.now_unix_s += 60.0 if number != 40 else -86400.0
        told.append(ledger.note_level("u", Level(1 + number % 2)))
    assert all(told)


def test_level_that_goes_up_and_down_without_end_is_told_now_and_then() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    told = 0
    for number in range(1, 1000):
        clock.now_s += 1.0
        clock.now_unix_s += 1.0
        told += ledger.note_level("u", Level(1 + number % 2))
    assert told <= 60
