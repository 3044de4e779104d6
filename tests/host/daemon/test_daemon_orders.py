# SPDX-License-Identifier: LGPL-2.1-or-later
"""An operator's limits through the command: set, read back, shown, lapsing, taken back and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemon_world import ROOT, World

from xenwarden_channel import paths
from xenwarden_host.control.peers import Role
from xenwarden_host.errors import XenwardenError
from xenwarden_host.records import LimitKey, LimitKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CAP = LimitKey(LimitKind.CAP)
POLICY = "vms: [{name: 'db*', exempt: true}]\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, policy=POLICY) as made:
        yield made


def cap(world: World, name: str) -> int | None:
    return world.hypervisor.sched_params(world.guests[name].domid).cap


def test_limit_stands_when_the_command_returns_and_is_shown_whole(world: World) -> None:
    web = world.start("web", cap=80)
    world.run(seconds=1)
    status, out, err = world.command("limit", "web", "--cap", "25", "--vif-rate", "10Mb/s", "--for", "10m")
    assert (status, out, err) == (0, "", "")
    assert (cap(world, "web"), world.vifs.rate(web.domid, 0)) == (25, "50000,40000")
    by_kind = {row["kind"]: row for row in world.xenwarden("limits", "web")}
    shown = by_kind["cap"]
    assert (shown["value"], shown["set"], shown["read_back"], shown["original"]) == (25, "25", "25", "80")
    assert (shown["state"], shown["owner"], shown["why"]) == ("set", "operator:root", "ordered by root")
    assert shown["until_unix_s"] == pytest.approx(world.clock.unix() + 600, abs=2)
    assert world.xenwarden("limit", "web")["limits_now"] == world.xenwarden("show", "web")["limits_now"]
    assert "0=50000,40000" in world.command("limits")[1]
    (ordered,) = [e for e in world.service.warden.database.audit(limit=20) if e["event"] == "limit-ordered"]
    assert ordered["text"] == "root ordered for web: cap 25 % of one CPU, vif-rate 10 Mbit/s"
    world.run(seconds=601)
    assert (cap(world, "web"), world.vifs.rate(web.domid, 0)) == (80, None)


def test_order_counts_before_a_decision_which_holds_again_afterwards(world: World) -> None:
    web = world.start("web")
    world.run(seconds=1)
    engine = world.service.warden.engine
    for owner, value in (("hrem", 90), ("hsem", 20)):
        engine.want(web.uuid, CAP, value, owner, "a test")
    world.service.warden.applier._wanted[web.uuid, CAP] = (20, "a test")
    world.run(seconds=1)
    assert cap(world, "web") == 20
    world.xenwarden("limit", "web", "--cap", "50")
    assert cap(world, "web") == 50
    world.xenwarden("limit", "web", "--cap", "none")
    assert cap(world, "web") == 20
    engine.lift(web.uuid, CAP, "hsem")
    world.run(seconds=1)
    assert cap(world, "web") == 90
    world.xenwarden("release", "web")
    assert cap(world, "web") == 0


def test_dry_run_says_what_would_be_and_changes_nothing(world: World) -> None:
    world.start("web")
    world.run(seconds=1)
    world.xenwarden("limit", "web", "--cap", "50")
    status, out, _err = world.command("-N", "limit", "web", "--cap", "25", "--vcpus", "1")
    assert (status, out) == (0, "web: cap would be 25, is 50\nweb: vcpus would be 1, is none\n")
    assert cap(world, "web") == 50
    assert [row["kind"] for row in world.xenwarden("limits")] == ["cap"]


@pytest.mark.parametrize("name", ["Domain-0", "driver", "db1"])
def test_protected_vms_are_never_limited(world: World, name: str) -> None:
    world.hypervisor.add("6f2f7a0c-0000-4000-8000-000000000009", "driver", service=True)
    world.start("db1")
    world.run(seconds=1)
    status, _out, err = world.command("limit", name, "--pause")
    assert status == 1
    assert "never limited" in err or "exempts" in err
    assert not world.hypervisor.calls


@pytest.mark.parametrize("protected", ["driver", "db1"])
def test_protected_vm_that_floods_is_told_and_never_judged(world: World, protected: str) -> None:
    flooder = world.start(protected)
    world.hypervisor.change(flooder.domid, service=protected == "driver")
    flooder.signals["tx_syn_pps"] = 5000
    flooder.vif |= {"rx_packets": 5000, "rx_bytes": 300_000}
    world.run(seconds=40)
    shown = world.show(flooder)
    assert (shown["state"], shown["verdict"], shown["limits"]) == ("normal", None, [])
    events = world.service.warden.database.audit(limit=100)
    assert any(event["event"] == "alert" and event["name"] == protected for event in events)


def test_vm_that_the_policy_comes_to_exempt_is_released(world: World) -> None:
    world.start("web")
    world.run(seconds=1)
    world.xenwarden("limit", "web", "--cap", "50")
    world.config.write_text("vms: [{name: 'w*', exempt: true}]\n")
    world.service.reload()
    world.run(seconds=2)
    assert cap(world, "web") == 0
    assert world.xenwarden("limits") == []


def test_limit_that_does_not_stand_is_told_and_fails(world: World) -> None:
    web = world.start("web")
    del world.vifs.vifs[web.domid][0]
    world.clock.advance(2)
    world.turn()
    status, _out, err = world.command("limit", "web", "--vif-rate", "1Mb/s", "--cap", "50")
    assert (status, cap(world, "web")) == (1, 50)
    assert err == "xenwarden: vif-rate is no-target: no vif whose backend is in dom0\n"


def test_no_order_is_taken_while_the_kill_switch_is_on(world: World) -> None:
    world.start("web")
    world.run(seconds=1)
    world.xenwarden("limit", "web", "--cap", "50")
    world.xenwarden("kill-switch", "on")
    world.run(seconds=2)
    assert cap(world, "web") == 0
    status, _out, err = world.command("limit", "web", "--cap", "50")
    assert (status, cap(world, "web")) == (1, 0)
    assert "kill switch" in err


@pytest.mark.parametrize(
    "orders",
    [
        *(None, {}, [], {"weight": 65536}),
        *({key: 1} for key in ("frob", "vif-pps", "cap/syn")),
        *({"cap": value} for value in (-1, "5", True, 1 << 60, None)),
    ],
)
def test_hostile_order_is_refused(world: World, orders: object) -> None:
    web = world.start("web")
    world.run(seconds=1)
    answers = world.service._control._handler
    with pytest.raises(XenwardenError):
        answers.answer({"do": "limit", "vm": web.name, "orders": orders}, ROOT, Role.ADMIN)
    assert world.xenwarden("limits") == []


def test_ordered_level_reaches_the_agent_is_shown_and_outlives_the_daemon(world: World) -> None:
    web = world.start("web")
    world.run(seconds=3)
    assert web.down(paths.DOWN_ORDER)["level"] == "1"
    assert world.command("-N", "-v", "level", "web", "2")[1] == "web: level 2 would be ordered, was 1\n"
    assert world.command("level", "web", "2") == (0, "", "")
    world.run(seconds=1)
    assert web.down(paths.DOWN_ORDER)["level"] == "2"
    assert "Level    2, ordered by an operator" in world.command("show", "web")[1]
    world.end()
    world.begin()
    world.run(seconds=3)
    assert web.down(paths.DOWN_ORDER)["level"] == "2"
    assert world.xenwarden("level", "web", "1") == {
        "name": "web", "uuid": web.uuid, "was": 2, "ordered": 1,
    }  # fmt: skip
    world.run(seconds=1)
    assert web.down(paths.DOWN_ORDER)["level"] == "1"
    assert world.show(web)["level_ordered"] == 1
    ordered = [e for e in world.service.warden.database.audit(limit=50) if e["event"] == "level-ordered"]
    assert [(event["who"], event["text"]) for event in ordered] == [
        ("operator:root", "web: level 2 ordered by root"),
        ("operator:root", "web: level 1 ordered by root"),
    ]
