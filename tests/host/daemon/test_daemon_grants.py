# SPDX-License-Identifier: LGPL-2.1-or-later
"""A VM asks for more: granted, denied, taken back; the whole daemon on fakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemon_world import Guest, World

from xenwarden_channel import messages, paths
from xenwarden_host.cli.verbs import BY_NAME
from xenwarden_host.records import LimitKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MB = 1024
OWN_KB = 256 * MB


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def start(world: World, name: str = "web", *, most_kb: int = 4096 * MB, vcpus: int = 1) -> Guest:
    """Start a VM that uses all of its memory, with room to grow in its configuration."""
    guest = world.start(name, vcpus=vcpus)
    home = f"/local/domain/{guest.domid}"
    world.store.write(f"{home}/memory/static-max", str(most_kb).encode())
    for number in range(4):
        state = b"online" if number < vcpus else b"offline"
        world.store.write(f"{home}/cpu/{number}/availability", state)
    guest.signals.update(mem_used_pct=90.0, cpu_pct=5.0)
    world.run(seconds=6)
    return guest


def ask(guest: Guest, request_id: int, what: str, more: int) -> None:
    guest.write(
        paths.UP_REQUEST,
        messages.encode("request", request_id, {"id": request_id, "what": what, "more": more}),
    )


def answered(world: World, guest: Guest, request_id: int, what: str, more: int) -> tuple[str, int, str]:
    """Ask, and return outcome, amount and reason of the answer."""
    ask(guest, request_id, what, more)
    world.run(seconds=3)
    answer = guest.down(paths.DOWN_GRANT)
    assert answer["id"] == str(request_id)
    assert answer["what"] == what
    return answer["outcome"], int(answer["more"]), answer["why"]


def memory_kb(world: World, guest: Guest) -> int:
    return world.hypervisor.targets_kb[guest.domid]


def spend(world: World, guest: Guest, share: float, seconds: float) -> None:
    """Let a VM run with this share of its vCPUs."""
    for _ in range(round(seconds)):
        info = world.hypervisor.list_domains()[guest.domid]
        world.hypervisor.change(guest.domid, cpu_time_s=info.cpu_time_s + share * info.vcpus_online)
        world.run(seconds=1)


def events(world: World, what: str) -> list[str]:
    answer = world.service.warden.database.audit(limit=1000)
    return [event["text"] for event in answer if event["event"] == what]


def test_memory_is_granted_logged_with_hsems_word_and_shown(world: World) -> None:
    web = start(world)
    assert answered(world, web, 1, "memory", 128 * MB) == ("granted", 128 * MB, "")
    assert memory_kb(world, web) == OWN_KB + 128 * MB
    assert events(world, "grant") == [
        "web gets 128 MB more memory: asked for 128 MB more memory, HSEM: normal (now 384 MB, 256 MB its own)"
    ]
    (grant,) = world.show(web)["grants"]
    documented = {name for name, _meaning in BY_NAME["show"].json}
    assert {f"grants[].{name}" for name in grant} == {name for name in documented if "grants[]" in name}
    assert (grant["kind"], grant["value"], grant["own"]) == ("memory", OWN_KB + 128 * MB, OWN_KB)
    _status, text, _err = world.command("show", "web")
    assert "Granted" in text


def test_weight_and_vcpus_are_granted_to_a_vm_that_uses_its_cpu(world: World) -> None:
    web = start(world)
    spend(world, web, 0.95, 5)
    ask(web, 1, "vcpus", 1)
    spend(world, web, 0.95, 3)
    assert web.down(paths.DOWN_GRANT)["outcome"] == "granted"
    assert world.hypervisor.vcpus[web.domid] == 2
    spend(world, web, 0.95, 61)
    ask(web, 2, "weight", 64)
    spend(world, web, 0.95, 3)
    assert web.down(paths.DOWN_GRANT)["outcome"] == "granted"
    assert world.hypervisor.sched_params(web.domid).weight == 320


def test_what_is_not_needed_any_more_is_taken_back_exactly(world: World) -> None:
    web = start(world)
    answered(world, web, 1, "memory", 128 * MB)
    world.run(seconds=400)
    assert memory_kb(world, web) == OWN_KB + 128 * MB  # still used
    web.signals["mem_used_pct"] = 20.0
    world.run(seconds=290)
    assert memory_kb(world, web) == OWN_KB + 128 * MB  # not long enough
    world.run(seconds=20)
    assert memory_kb(world, web) == OWN_KB
    assert events(world, "grant-ended") == ["web gives 128 MB of memory back: not needed for 300 s"]
    assert world.show(web)["grants"] == []


def test_a_vm_under_suspicion_gets_nothing_and_is_told(world: World) -> None:
    web = start(world)
    web.signals.update(tx_syn_pps=5000, tx_pps=5000)
    world.run(seconds=3)
    assert world.show(web)["state"] == "watched"
    assert answered(world, web, 1, "memory", 64 * MB) == ("denied", 0, "suspicion")
    assert memory_kb(world, web) == OWN_KB
    (text,) = events(world, "grant-denied")
    assert text.endswith("denied: the VM is watched, contained or protected (HSEM: watched)")


def test_a_convicted_vm_loses_what_it_was_granted(world: World) -> None:
    web = start(world)
    answered(world, web, 1, "memory", 64 * MB)
    web.signals.update(tx_syn_pps=5000, tx_pps=5000, rx_synack_pps=5)
    world.run(seconds=40)
    assert world.show(web)["state"] == "contained"
    assert memory_kb(world, web) == OWN_KB
    assert events(world, "grant-ended") == ["web gives 64 MB of memory back: HSEM finds it an attacker"]


def test_a_stream_of_requests_moves_one_step_a_minute_and_fills_no_log(tmp_path: Path) -> None:
    with World(tmp_path, policy="grants: {memory: {step: 65536}}") as world:
        web = start(world)
        targets = set()
        for number in range(1, 220):
            ask(web, number, "memory", 1 << 30)
            world.run(seconds=0.5)
            targets.add(memory_kb(world, web))
        assert targets == {OWN_KB + 64 * MB, OWN_KB + 128 * MB}
        assert len(events(world, "grant")) == 2
        assert events(world, "grant-denied") == []  # too soon: the answer says so, the log does not
        assert web.down(paths.DOWN_GRANT)["why"] == "too-soon"


@pytest.mark.parametrize("used", [{"mem_used_pct": 20.0}, {}])
def test_who_does_not_need_it_or_does_not_say_gets_none(world: World, used: dict[str, float]) -> None:
    web = start(world)
    web.signals.clear()
    web.signals.update(used)
    world.run(seconds=6)
    assert answered(world, web, 1, "memory", 64 * MB) == ("denied", 0, "not-needed")


def test_configuration_and_policy_bound_what_is_granted(tmp_path: Path) -> None:
    with World(tmp_path, policy="vms: [{name: small, maximum: {memory: 300000}}]") as world:
        small, tight, full = (
            start(world, "small"),
            start(world, "tight", most_kb=OWN_KB + 1000),
            start(world, "full", most_kb=OWN_KB),
        )
        assert answered(world, small, 1, "memory", 128 * MB) == ("granted", 300000 - OWN_KB, "in-part")
        assert answered(world, tight, 1, "memory", 128 * MB) == ("granted", 1000, "in-part")
        assert answered(world, full, 1, "memory", 128 * MB) == ("denied", 0, "maximum")


def test_the_host_keeps_what_it_needs_and_what_others_are_promised(tmp_path: Path) -> None:
    with World(tmp_path, policy="vms: [{name: other, guarantee: {memory: 400000}}]") as world:
        web, other = start(world), start(world, "other")
        in_use = (1 << 20) + 2 * OWN_KB
        keeps, lacking = 262144, 400000 - OWN_KB
        world.hypervisor.memory_kb = in_use + keeps + lacking + 5000
        assert answered(world, web, 1, "memory", 64 * MB) == ("granted", 5000, "in-part")
        assert answered(world, other, 1, "memory", 64 * MB)[0] == "granted"  # its own guarantee
        third = start(world, "third")
        assert answered(world, third, 1, "memory", 64 * MB) == ("denied", 0, "host-full")


def test_no_more_vcpus_than_the_host_has_to_give(tmp_path: Path) -> None:
    with World(tmp_path, policy="grants: {vcpus_per_cpu: 0.5}") as world:  # four CPUs: two vCPUs
        web = start(world, vcpus=2)
        spend(world, web, 0.95, 5)
        ask(web, 1, "vcpus", 1)
        spend(world, web, 0.95, 3)
        assert web.down(paths.DOWN_GRANT)["why"] == "host-full"


def test_what_does_not_happen_in_time_expires_and_leaves_nothing(world: World) -> None:
    web = start(world)
    world.hypervisor.refuse.add("set_memory_target")
    ask(web, 1, "memory", 64 * MB)
    world.run(seconds=15)
    assert web.down(paths.DOWN_GRANT)["outcome"] == "expired"
    world.hypervisor.refuse.clear()
    world.run(seconds=5)
    assert memory_kb(world, web) == OWN_KB
    assert world.show(web)["grants"] == []


def test_an_admins_own_change_meanwhile_stays(world: World) -> None:
    web = start(world)
    answered(world, web, 1, "memory", 64 * MB)
    world.hypervisor.set_memory_target(web.domid, 500 * MB)
    world.run(seconds=400)
    assert memory_kb(world, web) == 500 * MB
    assert len(events(world, "grant-overruled")) == 1


def test_a_limit_on_the_same_resource_stands_above_the_grant(world: World) -> None:
    web = start(world)
    answered(world, web, 1, "memory", 64 * MB)
    engine, key = world.service.warden.engine, LimitKey.parse("memory")
    engine.want(web.uuid, key, 100 * MB, "operator:root", "too much")
    world.run(seconds=70)
    assert memory_kb(world, web) == 100 * MB
    assert answered(world, web, 2, "memory", 64 * MB) == ("denied", 0, "limited")
    web.signals["mem_used_pct"] = 10.0
    world.run(seconds=400)  # taken back meanwhile
    assert memory_kb(world, web) == 100 * MB
    engine.lift(web.uuid, key, "operator:root")
    world.run(seconds=3)
    assert memory_kb(world, web) == OWN_KB


def test_a_grant_outlives_the_daemon_and_is_taken_back_by_the_next(world: World) -> None:
    web = start(world)
    answered(world, web, 1, "memory", 64 * MB)
    world.crash()
    world.begin()
    world.run(seconds=10)
    assert memory_kb(world, web) == OWN_KB + 64 * MB  # the answered request is not taken for a new one
    assert len(events(world, "grant")) == 1
    web.signals["mem_used_pct"] = 10.0
    world.run(seconds=320)
    assert memory_kb(world, web) == OWN_KB


@pytest.mark.parametrize(("fail_safe", "left_kb"), [("keep", OWN_KB + 64 * MB), ("release", OWN_KB)])
def test_what_a_daemon_leaves_that_stops_is_policy(tmp_path: Path, fail_safe: str, left_kb: int) -> None:
    with World(tmp_path, policy=f"fail_safe: {fail_safe}") as world:
        web = start(world)
        answered(world, web, 1, "memory", 64 * MB)
        world.end()
        assert memory_kb(world, web) == left_kb
        world.begin()


def test_a_vm_that_comes_back_with_what_it_was_granted_has_its_own_again(world: World) -> None:
    web = start(world)
    answered(world, web, 1, "memory", 64 * MB)
    before = web.domid
    world.hypervisor.change(before, dying=True)
    web.domid = world.hypervisor.renumber(before, cpu_time_s=0)  # saved with the target of then
    new = world.hypervisor.list_domains()[-1]
    world.hypervisor.destroy(web.domid)
    world.store.remove_domain(before)
    web.connection = None
    world.vifs.renumber(before, web.domid)
    world.run(seconds=5)
    assert new.uuid == web.uuid
    restored = world.hypervisor.add(web.uuid, "web", memory_kb=OWN_KB + 64 * MB)
    world.store.add_domain(restored)
    world.vifs.renumber(web.domid, restored)
    web.domid = restored
    world.run(seconds=5)
    assert memory_kb(world, web) == OWN_KB


def test_the_kill_switch_grants_nothing(world: World) -> None:
    web = start(world)
    world.xenwarden("kill-switch", "on")
    world.run(seconds=2)
    assert answered(world, web, 1, "memory", 64 * MB) == ("denied", 0, "not-allowed")


@pytest.mark.parametrize(
    "value",
    [
        b"xw1 request seq=1 id=1 what=disk more=5",
        b"xw1 request seq=1 id=1 what=memory more=0",
        b"xw1 request seq=1 id=1 what=memory more=-5",
        b"xw1 request seq=1 what=memory more=5",
        b"xw1 request seq=1 id=1 what=memory more=0.5",
        b"garbage",
    ],
)
def test_what_is_no_request_is_refused(world: World, value: bytes) -> None:
    web = start(world)
    web.write(paths.UP_REQUEST, value)
    world.run(seconds=3)
    assert web.down(paths.DOWN_GRANT) == {}
    assert memory_kb(world, web) == OWN_KB


def test_agents_are_told_what_they_may_ask_for_by_themselves(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        web = start(world)
        assert not any(name.startswith("more_") for name in web.down(paths.DOWN_ORDER))
    policy = """
grants: {self_asks: [memory], pressed_s: 10}
vms:
  - {name: db, self_asks: [vcpus, weight]}
  - {name: batch, self_asks: []}
"""
    with World(tmp_path / "second", policy=policy) as world:
        told = {}
        for name in ("web", "db", "batch"):
            order = start(world, name).down(paths.DOWN_ORDER)
            told[name] = {field: order[field] for field in order if field.startswith("more_")}
        pauses = {"more_after_s": "10", "more_every_s": "60"}
        assert told == {
            "web": {"more_memory": "262144", **pauses},
            "db": {"more_vcpus": "1", "more_weight": "128", **pauses},
            "batch": {},
        }
