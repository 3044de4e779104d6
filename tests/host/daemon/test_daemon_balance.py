# SPDX-License-Identifier: LGPL-2.1-or-later
"""The balancer in the whole daemon on fakes: done or told, journalled, below grants and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemon_world import Guest, World

from xenwarden_channel import messages, paths
from xenwarden_host.records import LimitKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MB = 1024
OWN_KB = 256 * MB
STEP_KB = 64 * MB
KEEPS_KB = 262144
POLICY = "balance: {{mode: {mode}, hungry_s: 10, idle_s: 20, every_s: 10}}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, policy=POLICY.format(mode="act")) as world:
        yield world


def start(world: World, name: str, mem_used_pct: float) -> Guest:
    """Start a VM that balloons, with room to grow in its configuration."""
    guest = world.start(name)
    world.store.write(f"/local/domain/{guest.domid}/memory/static-max", str(1024 * MB).encode())
    guest.signals.update(mem_used_pct=mem_used_pct, cpu_pct=5.0, steal_pct=0.0)
    return guest


def pair(world: World, free_kb: int = 0) -> tuple[Guest, Guest]:
    """Start a hungry VM and an idle one on a host with so much to give."""
    hungry, idle = start(world, "hungry", 92.0), start(world, "idle", 20.0)
    world.hypervisor.memory_kb = MB * MB + 2 * OWN_KB + KEEPS_KB + free_kb
    return hungry, idle


def run(world: World, seconds: int) -> None:
    """Let time pass; every VM does what its balloon target says."""
    for _ in range(seconds):
        world.run(seconds=1)
        for guest in world.guests.values():
            world.hypervisor.change(guest.domid, memory_kb=world.hypervisor.targets_kb[guest.domid])


def targets(world: World) -> dict[str, int]:
    return {name: world.hypervisor.targets_kb[guest.domid] for name, guest in world.guests.items()}


def events(world: World, what: str) -> list[str]:
    found = world.service.warden.database.audit(limit=1000)
    return [event["text"] for event in found if event["event"] == what]


def test_memory_goes_from_the_idle_to_the_hungry_and_back_and_is_told(world: World) -> None:
    hungry, _idle = pair(world)
    run(world, 150)
    assert targets(world) == {"hungry": OWN_KB + 2 * STEP_KB, "idle": OWN_KB - 2 * STEP_KB}
    told = events(world, "balance")
    assert len(told) == 4
    assert "idle: memory 256 MB to 192 MB: it is idle, another hungry" in told
    assert "hungry: memory 256 MB to 320 MB: it is hungry" in told
    assert world.show(hungry)["limits_now"] == []  # it is no limit
    hungry.signals["mem_used_pct"] = 30.0
    run(world, 200)
    assert targets(world) == {"hungry": OWN_KB, "idle": OWN_KB}
    assert not world.service.warden.desk.book.lent


def test_by_default_it_is_told_and_not_done(tmp_path: Path) -> None:
    with World(tmp_path, policy=POLICY.format(mode="advise")) as world:
        pair(world, free_kb=STEP_KB)
        run(world, 60)
        assert targets(world) == {"hungry": OWN_KB, "idle": OWN_KB}
        assert events(world, "balance") == []
        advice = "balance: hungry: memory 256 MB to 320 MB: it is hungry"
        assert world.xenwarden("capacity")["advice"] == [advice]
        assert advice in world.command("capacity")[1]
        world.guests["hungry"].signals["mem_used_pct"] = 60.0
        run(world, 10)
        assert world.xenwarden("capacity")["advice"] == []


def test_none_is_none(tmp_path: Path) -> None:
    with World(tmp_path, policy=POLICY.format(mode="none")) as world:
        pair(world, free_kb=STEP_KB)
        run(world, 60)
        assert world.xenwarden("capacity")["advice"] == []


def test_weights_go_to_who_waits_for_cpu_on_a_full_host(world: World) -> None:
    hungry, idle = start(world, "hungry", 60.0), start(world, "idle", 60.0)
    world.hypervisor.pcpus = 1
    hungry.signals["steal_pct"] = 25.0
    for second in range(100):
        # In a single second a little less than all may be seen, and in the next one more.
        seen_late = 0.08 if second % 2 else -0.08
        for guest, share in ((hungry, 0.78 + seen_late), (idle, 0.21)):
            info = next(i for i in world.hypervisor.list_domains() if i.domid == guest.domid)
            world.hypervisor.change(guest.domid, cpu_time_s=info.cpu_time_s + share)
        world.run(seconds=1)
    weights = [world.hypervisor.sched_params(guest.domid).weight for guest in (hungry, idle)]
    assert weights == [384, 128]
    world.xenwarden("kill-switch", "on")
    world.run(seconds=3)
    assert [world.hypervisor.sched_params(guest.domid).weight for guest in (hungry, idle)] == [256, 256]


SHARED = """
balance: {mode: act, hungry_s: 10, idle_s: 20, every_s: 20}
vms: [{name: more, guarantee: {weight: 320}}, {name: less, guarantee: {weight: 192}}]
"""


@pytest.mark.parametrize(
    "held_up", ["", "pinned", "capped", "blocked"], ids=lambda held_up: held_up or "by its weight"
)
def test_weights_make_up_for_shares_that_are_not_as_guaranteed(tmp_path: Path, held_up: str) -> None:
    with World(tmp_path, policy=SHARED) as world:
        world.hypervisor.pcpus = 1
        vms = {name: start(world, name, 60.0) for name in ("more", "less")}
        for guest in vms.values():
            guest.signals["steal_pct"] = 60.0
        less = vms["less"].domid
        if held_up == "pinned":
            world.hypervisor.affinity[less] = [frozenset((0, 1))]
        elif held_up == "capped":
            world.hypervisor.set_sched_params(less, cap=50)
        elif held_up == "blocked":
            world.hypervisor.blocked.add(less)

        def weights() -> dict[str, int]:
            found = {name: world.hypervisor.sched_params(guest.domid).weight for name, guest in vms.items()}
            return {name: weight or 0 for name, weight in found.items()}

        for _ in range(150):
            given = {name: weight * (0.8 if name == "less" else 1) for name, weight in weights().items()}
            for name, guest in vms.items():
                info = next(i for i in world.hypervisor.list_domains() if i.domid == guest.domid)
                got_s = info.cpu_time_s + given[name] / sum(given.values())
                world.hypervisor.change(guest.domid, cpu_time_s=got_s)
            world.run(seconds=1)
        share = given["less"] / sum(given.values())
        if held_up:
            assert weights() == {"more": 320, "less": 192}
            return
        assert abs(share / (192 / 512) - 1) < 0.05
        for guest in vms.values():
            guest.signals["steal_pct"] = 0.0
        world.run(seconds=90)
        assert weights() == {"more": 256, "less": 256}


@pytest.mark.parametrize("name", ["hungry", "idle"])
def test_a_limit_ends_it_and_takes_no_original_from_it(world: World, name: str) -> None:
    pair(world)
    run(world, 60)
    guest = world.guests[name]
    assert targets(world)[name] != OWN_KB
    engine, key = world.service.warden.engine, LimitKey.parse("memory")
    engine.want(guest.uuid, key, 100 * MB, "operator:root", "too much")
    run(world, 5)
    (status,) = engine.status(guest.uuid)
    assert (status.original, targets(world)[name]) == (str(OWN_KB), 100 * MB)
    world.crash()  # what is the VM's own is on disk
    world.begin()
    run(world, 30)
    assert targets(world)[name] == 100 * MB
    guest.signals["mem_used_pct"] = 60.0
    world.guests["hungry"].signals["mem_used_pct"] = 60.0
    world.service.warden.engine.lift(guest.uuid, key, "operator:root")
    run(world, 5)
    assert targets(world)[name] == OWN_KB
    assert f"{name} has its own memory again: it is limited" in events(world, "balance-ended")


def test_a_grant_stands_above_and_ends_in_what_was_there_at_first(world: World) -> None:
    hungry, _idle = pair(world, free_kb=STEP_KB)
    run(world, 20)
    assert targets(world)["hungry"] == OWN_KB + STEP_KB
    world.hypervisor.memory_kb += 512 * MB
    ask = messages.encode("request", 1, {"id": 1, "what": "memory", "more": 32 * MB})
    hungry.write(paths.UP_REQUEST, ask)
    run(world, 3)
    assert hungry.down(paths.DOWN_GRANT)["outcome"] == "granted"
    assert targets(world)["hungry"] == OWN_KB + STEP_KB + 32 * MB
    run(world, 60)
    assert targets(world)["hungry"] == OWN_KB + STEP_KB + 32 * MB  # granted: let alone
    hungry.signals["mem_used_pct"] = 20.0
    run(world, 320)
    assert targets(world)["hungry"] == OWN_KB


def test_who_is_under_suspicion_gets_nothing_and_who_is_convicted_loses_it(world: World) -> None:
    hungry, _idle = pair(world)
    run(world, 60)
    assert targets(world)["hungry"] > OWN_KB
    hungry.signals.update(tx_syn_pps=5000, tx_pps=5000, rx_synack_pps=5)
    run(world, 40)
    assert world.show(hungry)["state"] == "contained"
    assert targets(world)["hungry"] == OWN_KB


def test_a_stream_of_requests_and_of_changing_claims_moves_nothing(world: World) -> None:
    hungry, _idle = pair(world, free_kb=1024 * MB)
    hungry.signals["mem_used_pct"] = 60.0
    for number in range(1, 100):
        hungry.signals["mem_used_pct"] = 99.0 if number % 3 == 0 else 10.0
        more = messages.encode("request", number, {"id": number, "what": "weight", "more": 1 << 30})
        hungry.write(paths.UP_REQUEST, more)
        run(world, 4)
    assert events(world, "balance") == []
    assert set(targets(world).values()) == {OWN_KB}


def test_an_admins_own_change_is_the_last_word(world: World) -> None:
    hungry, _idle = pair(world)
    run(world, 60)
    hungry.signals["mem_used_pct"] = 60.0
    world.hypervisor.set_memory_target(hungry.domid, 300 * MB)
    run(world, 120)
    assert targets(world)["hungry"] == 300 * MB
    assert len(events(world, "grant-overruled")) == 1


@pytest.mark.parametrize(("fail_safe", "back"), [("keep", False), ("release", True)])
def test_what_a_daemon_leaves_that_stops_is_policy(tmp_path: Path, fail_safe: str, back: bool) -> None:
    policy = f"{POLICY.format(mode='act')}\nfail_safe: {fail_safe}"
    with World(tmp_path, policy=policy) as world:
        pair(world)
        run(world, 60)
        left = targets(world)
        world.end()
        assert targets(world) == (dict.fromkeys(left, OWN_KB) if back else left)
        world.begin()
