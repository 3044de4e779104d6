# SPDX-License-Identifier: LGPL-2.1-or-later
"""When the agent asks for more by itself: what pressure is, when it has lasted, and the pauses."""

from __future__ import annotations

import pytest

from xenwarden_guest.vrem.pressure import Pressure, Rules, lacks

IDLE = {"cpu_pct": 5.0, "steal_pct": 0.0, "mem_used_pct": 40.0, "psi_cpu_pct": 0.0, "psi_mem_pct": 0.0}
FULL = {**IDLE, "mem_used_pct": 97.0}


def rules(*what: str) -> Rules:
    made = Rules()
    made.more = dict.fromkeys(what, 1)
    made.after_s, made.every_s = 30.0, 60.0
    return made


@pytest.mark.parametrize(
    ("signals", "short"),
    [
        (IDLE, []),
        ({}, []),
        (FULL, ["memory"]),
        ({**IDLE, "psi_mem_pct": 25.0}, ["memory"]),
        ({**IDLE, "cpu_pct": 98.0, "psi_cpu_pct": 40.0}, ["vcpus"]),
        ({**IDLE, "cpu_pct": 98.0}, []),  # one task for each vCPU: more of them would stay idle
        ({"cpu_pct": 98.0, "run_queue": 3.0}, ["vcpus"]),  # a kernel without PSI
        ({"cpu_pct": 98.0, "run_queue": 0.5}, []),
        ({**IDLE, "cpu_pct": 60.0, "steal_pct": 38.0, "psi_cpu_pct": 40.0}, ["weight"]),
        ({**IDLE, "cpu_pct": 40.0, "steal_pct": 12.0}, []),  # a busy host, and a VM that needs little
    ],
)
def test_what_a_vm_is_short_of(signals: dict[str, float], short: list[str]) -> None:
    assert lacks(signals, ()) == short


def test_pressure_ends_lower_than_it_begins() -> None:
    between = {**IDLE, "mem_used_pct": 90.0}
    assert lacks(between, ()) == []
    assert lacks(between, ("memory",)) == ["memory"]
    assert lacks({**IDLE, "mem_used_pct": 80.0}, ("memory",)) == []


def test_it_must_last_and_a_break_begins_it_anew() -> None:
    pressure, allowed = Pressure(), rules("memory")
    assert [pressure.due(FULL, allowed, now_s) for now_s in (0, 10, 29)] == ["", "", ""]
    assert pressure.due(IDLE, allowed, 29.5) == ""
    assert [pressure.due(FULL, allowed, now_s) for now_s in (30, 59)] == ["", ""]
    assert pressure.due(FULL, allowed, 60) == "memory"


def test_nothing_is_asked_for_that_dom0_did_not_name() -> None:
    pressure = Pressure()
    assert not any(pressure.due(FULL, rules("vcpus"), float(now_s)) for now_s in range(300))


def test_after_an_answer_there_is_a_pause_and_after_denials_a_longer_one() -> None:
    pressure, allowed = Pressure(), rules("memory")
    asked = []
    for now_s in range(0, 20_000, 5):
        if pressure.due(FULL, allowed, now_s):
            asked.append(now_s)
            pressure.answered("memory", allowed, now_s, granted=len(asked) == 1)
    assert asked[:6] == [30, 90, 210, 450, 930, 1890]
    assert [later - asked[at] for at, later in enumerate(asked[1:])][-1] == 3600


def test_a_denial_of_one_resource_does_not_keep_it_from_another() -> None:
    pressure, allowed = Pressure(), rules("memory", "vcpus")
    short = {**FULL, "cpu_pct": 98.0, "psi_cpu_pct": 40.0}
    pressure.due(short, allowed, 0)
    assert pressure.due(short, allowed, 30) == "memory"
    pressure.answered("memory", allowed, 30, granted=False)
    assert pressure.due(short, allowed, 80) == ""
    assert pressure.due(short, allowed, 90) == "vcpus"
