# SPDX-License-Identifier: LGPL-2.1-or-later
"""Policy by XenStore in the whole daemon: live, told, refused, taken away, and read again after a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemon_world import World

from xenwarden_channel import paths
from xenwarden_host.daemon import policynodes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon_world import Guest

MAX_S = f"{paths.POLICY_DIR}/watch/max_s"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, policy="watch: {max_s: 30}\n") as made:
        yield made


def node(guest: Guest, key: str) -> str:
    return f"{paths.VM_DIR}/{guest.uuid}/{key}"


def value(world: World, guest: Guest, key: str) -> tuple[object, str]:
    shown = world.xenwarden("policy", "show", guest.name)
    row = {item["key"]: item for item in shown["values"]}[key]
    return row["value"], row["source"]


def told(world: World, event: str) -> list[str]:
    return [
        entry["text"] for entry in world.service.warden.database.audit(limit=99) if entry["event"] == event
    ]


def test_nodes_count_within_a_tick_and_no_longer_than_they_stand(world: World) -> None:
    web = world.start("web", cap=80)
    world.run(seconds=1)
    assert world.command("limit", "web", "--cap", "25")[0] == 0
    world.store.write(MAX_S, b"45")
    world.store.write(node(web, "exempt"), b"true")
    world.run(seconds=1)
    assert world.service.warden.policy.watch.max_s == 45
    assert value(world, web, "watch.max_s") == (45, MAX_S)
    assert world.hypervisor.sched_params(web.domid).cap == 80  # exempt: the limit is lifted
    status, _out, err = world.command("limit", "web", "--cap", "25")
    assert status == 1
    assert node(web, "exempt") in err
    assert told(world, "policy-override") == [f"{MAX_S} is 45 now", f"{node(web, 'exempt')} is true now"]
    out = world.command("policy", "show", "web")[1]
    assert any(line.split() == ["watch.max_s", MAX_S, "45"] for line in out.splitlines())

    world.store.remove(paths.VM_DIR)
    world.store.remove(MAX_S)
    world.run(seconds=1)
    assert value(world, web, "watch.max_s") == (30, f"{world.config}:1")
    assert value(world, web, "exempt") == (False, "built-in")
    assert world.command("limit", "web", "--cap", "25")[0] == 0
    assert f"{MAX_S} is gone: it overrides nothing" in told(world, "policy-override")
    world.store.write(MAX_S, b"46")  # its directory was not removed; that of the VMs was
    world.store.write(node(web, "protect"), b"true")
    world.run(seconds=1)
    assert value(world, web, "watch.max_s")[0] == 46
    assert value(world, web, "protect")[0] is True


def test_attacker_that_was_exempt_for_a_while_is_limited_again(world: World) -> None:
    mallory = world.start("mallory")
    mallory.signals.update(tx_pps=5000, tx_syn_pps=5000)
    mallory.vif.update(rx_packets=5000, rx_bytes=300_000)
    world.run(seconds=30)
    assert world.show(mallory)["state"] == "contained"
    world.store.write(node(mallory, "exempt"), b"true")
    world.run(seconds=5)
    assert world.show(mallory)["state"] == "normal"
    assert not world.vifs.vifs[mallory.domid][0].police
    world.store.remove(node(mallory, "exempt"))
    world.run(seconds=30)
    assert world.show(mallory)["state"] == "contained"
    assert world.vifs.vifs[mallory.domid][0].police


def test_bad_node_is_told_once_everywhere_and_the_last_good_value_stays(world: World) -> None:
    web = world.start("web")
    world.store.write(MAX_S, b"45")
    world.run(seconds=1)
    world.store.write(MAX_S, b"for ever")
    world.store.write(node(web, "protcet"), b"\xff")
    world.run(seconds=3)
    assert value(world, web, "watch.max_s") == (45, MAX_S)
    assert [item["node"] for item in world.xenwarden("policy", "show")["refused"]] == [
        MAX_S, node(web, "protcet"),
    ]  # fmt: skip
    _status, out, _err = world.command("doctor")
    assert f"{MAX_S} is refused: watch.max_s: expected a number, found 'for ever'" in out
    assert f"xenstore-rm {MAX_S}" in out
    assert len(told(world, "policy-refused")) == 2
    assert any("its last good value stays" in text for text in told(world, "policy-refused"))
    world.store.write(MAX_S, b"50")
    world.run(seconds=1)
    assert value(world, web, "watch.max_s") == (50, MAX_S)
    assert MAX_S not in world.command("policy", "show", "web")[2]


def test_restart_reads_the_nodes_and_a_reload_leaves_them(world: World) -> None:
    web = world.start("web")
    world.store.write(MAX_S, b"45")
    world.run(seconds=1)
    world.end()
    world.store.write(node(web, "protect"), b"true")
    world.begin()
    world.run(seconds=1)
    assert value(world, web, "watch.max_s") == (45, MAX_S)
    assert value(world, web, "protect")[0] is True
    world.config.write_text("watch: {max_s: 31, min_s: 7}\n")
    world.service.reload()
    assert value(world, web, "watch.max_s") == (45, MAX_S)
    assert value(world, web, "watch.min_s") == (7, f"{world.config}:1")


def test_lost_xenstore_changes_no_policy_and_what_changed_meanwhile_is_read(world: World) -> None:
    web = world.start("web")
    world.store.write(MAX_S, b"45")
    world.run(seconds=1)
    world.store.lose()
    world.store.tree.remove(0, MAX_S)
    world.run(seconds=2)
    assert value(world, web, "watch.max_s")[0] == 45
    world.store.come_back()
    world.run(seconds=2)
    assert value(world, web, "watch.max_s")[0] == 30


def test_node_of_a_vm_outlives_its_domain(world: World) -> None:
    web = world.start("web")
    world.store.write(node(web, "protect"), b"true")
    world.run(seconds=1)
    world.migrate(web)
    world.run(seconds=1)
    assert value(world, web, "protect") == (True, node(web, "protect"))


def test_too_many_nodes_are_not_read_and_what_counted_before_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policynodes, "MAX_NODES", 20)
    monkeypatch.setattr(policynodes, "MAX_VMS", 3)
    web = world.start("web")
    world.store.write(MAX_S, b"45")
    world.run(seconds=1)
    for number in range(30):
        world.store.write(f"{paths.POLICY_DIR}/junk/k{number}", b"1")
        world.store.write(f"{paths.VM_DIR}/x{number}/exempt", b"1")
    world.store.write(paths.TOOL_DIR, b"")
    world.run(seconds=1)
    assert value(world, web, "watch.max_s")[0] == 45
    refused = {item["node"]: item["why"] for item in world.xenwarden("policy", "show")["refused"]}
    assert refused.pop(paths.POLICY_DIR) == "holds more than 20 nodes: what it held before counts"
    assert refused.pop(paths.VM_DIR) == "holds 30 VMs: 3 of them are read"
    assert len(refused) == 3  # no UUIDs
    world.store.remove(f"{paths.POLICY_DIR}/junk")
    world.store.write(MAX_S, b"46")
    world.run(seconds=1)
    assert value(world, web, "watch.max_s")[0] == 46


def test_many_nodes_at_once_are_told_in_one_line(world: World) -> None:
    for number in range(50):
        world.store.write(f"{paths.VM_DIR}/00000000-0000-0000-0000-{number:012}/protect", b"true")
    world.run(seconds=1)
    assert told(world, "policy-override") == ["50 nodes of XenStore changed, 50 override the policy now"]


def test_guests_can_neither_read_nor_write_nor_watch_what_overrides(world: World) -> None:
    world.start("web")
    world.run(seconds=1)
    for path in (paths.TOOL_DIR, paths.POLICY_DIR, paths.VM_DIR):
        assert world.store.permissions(path) == ["n0"]


def test_dry_run_reads_nodes_and_makes_none(tmp_path: Path) -> None:
    with World(tmp_path, dry_run=True) as world:
        web = world.start("web")
        world.run(seconds=1)
        assert "xenwarden" not in world.store.directory("/tool")
        world.store.write(MAX_S, b"45")
        world.run(seconds=1)
        assert value(world, web, "watch.max_s")[0] == 45
