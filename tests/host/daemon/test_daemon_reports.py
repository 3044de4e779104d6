# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden capacity` and `xenwarden sprawl` of the whole daemon on fakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from daemon_world import Guest, World

from xenwarden_host.cli.verbs import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MB = 1024


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, policy="sprawl: {idle_s: 600}") as world:
        yield world


def spend(world: World, shares: dict[str, float], seconds: int) -> None:
    """Let VMs run, each with this share of its vCPUs."""
    for _ in range(seconds):
        for name, share in shares.items():
            guest = world.guests[name]
            info = next(info for info in world.hypervisor.list_domains() if info.domid == guest.domid)
            world.hypervisor.change(guest.domid, cpu_time_s=info.cpu_time_s + share * info.vcpus_online)
        world.run(seconds=1)


def vm(answer: dict[str, Any], guest: Guest) -> dict[str, Any]:
    return next(row for row in answer["vms"] if row["uuid"] == guest.uuid)


def test_capacity_tells_who_is_full_who_waits_and_what_is_left(world: World) -> None:
    busy, waits, idle = world.start("busy", vcpus=2), world.start("waits"), world.start("idle")
    for guest in (busy, waits, idle):
        guest.signals.update(cpu_pct=5.0, mem_used_pct=40.0, steal_pct=1.0)
    world.run(seconds=6)
    waits.signals["steal_pct"] = 60.0
    spend(world, {"busy": 0.99, "waits": 0.3, "idle": 0.0}, 400)
    answer = world.xenwarden("capacity")
    assert vm(answer, busy)["cpus_used"] == pytest.approx(1.98, abs=0.02)
    assert [row["name"] for row in answer["vms"] if row["is_near_max"]] == ["busy"]
    assert [row["name"] for row in answer["vms"] if row["gets_too_little"]] == ["waits"]
    assert answer["cpus_used"] == pytest.approx(2.28, abs=0.05)
    assert (answer["vcpus"], answer["cpus"]) == (4, 4)
    assert answer["one_more"] == {
        "vcpus": 1,
        "memory_kb": 256 * MB,
        "cpus_used": 0.3,
        "fits": True,
        "text": "one more VM with 1 vCPU and 256 MB fits: 1792 MB and 1.4 CPUs would be left",
    }
    assert answer["advice"] == [
        "waits: wait for CPU (2.3 of 4 CPUs are used); moving busy away would free 2.0 CPUs"
    ]
    status, out, _err = world.command("capacity")
    assert status == 0
    assert "near its maximum" in out
    assert "gets too little" in out
    assert answer["one_more"]["text"] in out


def test_one_more_vm_that_does_not_fit_is_told(world: World) -> None:
    world.start("web")
    world.run(seconds=6)
    world.hypervisor.memory_kb = (1 << 20) + 256 * MB + 300 * MB
    answer = world.xenwarden("capacity")
    assert not answer["one_more"]["fits"]
    assert answer["one_more"]["text"].endswith("does not fit: 212 MB of memory are missing")
    world.hypervisor.memory_kb = (1 << 20) + 256 * MB
    assert world.xenwarden("capacity")["advice"] == [
        "no memory is left beyond what the host keeps; moving web away would free 256 MB"
    ]


def test_a_host_without_vms_is_told_as_well(world: World) -> None:
    world.run(seconds=3)
    answer = world.xenwarden("capacity")
    assert (answer["vms"], answer["one_more"], answer["advice"]) == ([], None, [])
    assert world.command("capacity")[0] == 0


def test_sprawl_lists_who_does_nothing_and_nobody_else(world: World) -> None:
    forgotten, pinged, web = world.start("forgotten"), world.start("pinged"), world.start("web")
    pinged.vif.update(rx_packets=1, tx_packets=1)
    web.vif.update(rx_packets=50, tx_packets=50)
    world.run(seconds=300)
    assert world.xenwarden("sprawl")["vms"] == []  # not long enough
    world.end()
    world.begin()
    world.run(seconds=310)
    answer = world.xenwarden("sprawl")
    assert {row["name"] for row in answer["vms"]} == {"forgotten", "pinged"}
    row = vm(answer, forgotten)
    assert row["idle_s"] >= 600
    assert row["why"] == "no traffic to speak of and under 1 % CPU"
    assert answer["memory_kb"] == 2 * 256 * MB
    documented = {name for name, _meaning in BY_NAME["sprawl"].json}
    assert documented == {*answer, *(f"vms[].{name}" for name in row)}
    assert "forgotten" in world.command("sprawl")[1]

    spend(world, {"forgotten": 0.5}, 2)
    assert {row["name"] for row in world.xenwarden("sprawl")["vms"]} == {"pinged"}
