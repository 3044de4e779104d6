# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every kind of limit has a sentence with its value, its unit and what was there before."""

from __future__ import annotations

import pytest

from xenwarden_host.daemon import words
from xenwarden_host.records import LimitKey, LimitKind, LimitState, LimitStatus, PacketClass


def status(
    key: LimitKey, value: int, original: str | None, state: LimitState, detail: str = ""
) -> LimitStatus:
    return LimitStatus("u", key, value, original, state, "hsem", "why", 0.0, detail)


@pytest.mark.parametrize(
    ("key", "value", "original", "said"),
    [
        ("cap", 25, "80", "CPU of web limited to 25 % of one CPU (before: 80)"),
        ("cap", 50, "0", "CPU of web limited to 50 % of one CPU (before: no limit)"),
        ("vif-rate", 10_000_000, None, "network traffic sent by web limited to 10 Mbit/s (before: no limit)"),
        ("vif-in", 1_500, None, "network traffic to web limited to 1.5 kbit/s (before: no limit)"),
        ("vif-pps/syn", 99, None, "TCP SYN packets sent by web limited to 99 per second (before: no limit)"),
        ("vbd-io", 1_048_576, None, "disk traffic of web limited to 1.049 Mbyte/s (before: no limit)"),
        ("memory", 262_144, "524288", "memory of web limited to 262144 kB (before: 524288)"),
        ("pause", 1, None, "web paused"),
    ],
)
def test_limit_that_was_set(key: str, value: int, original: str | None, said: str) -> None:
    assert words.limit_change(status(LimitKey.parse(key), value, original, LimitState.SET), "web") == said


def test_order_has_its_amount_where_there_is_one() -> None:
    said = [
        words.order(LimitKey(kind), value)
        for kind, value in [(LimitKind.CAP, 25), (LimitKind.PAUSE, 1), (LimitKind.CAP, 0)]
    ]
    assert said == ["cap 25 % of one CPU", "pause", "cap none"]


def test_limit_that_limits_nothing_says_so() -> None:
    memory = status(LimitKey(LimitKind.MEMORY), 99_999, "2048", LimitState.SET, "what was there is stricter")
    assert words.limit_change(memory, "web") == (
        "memory of web not limited to 99999 kB: what was there is stricter"
    )


def test_limit_that_was_lifted_or_refused() -> None:
    cap = LimitKey(LimitKind.CAP)
    lifted = status(cap, 25, "80", LimitState.LIFTED)
    assert words.limit_change(lifted, "web") == "CPU of web no longer limited (again: 80)"
    refused = status(cap, 25, None, LimitState.UNSUPPORTED, "scheduler null has no cap")
    assert words.limit_change(refused, "web") == "CPU of web not limited: scheduler null has no cap"


def test_no_kind_is_without_words() -> None:
    keys = [LimitKey(kind) for kind in LimitKind if kind is not LimitKind.VIF_PPS]
    keys += [LimitKey(LimitKind.VIF_PPS, packet_class) for packet_class in PacketClass]
    for key in keys:
        assert words.amount(key, 1000)
        assert "web" in words.subject(key, "web")
