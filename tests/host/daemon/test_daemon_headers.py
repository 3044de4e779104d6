# SPDX-License-Identifier: LGPL-2.1-or-later
"""What dom0's own agent sees at the vif of a watched VM, whatever the VM's agent says, or without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from daemon_world import STEP_S, World

from xenwarden_channel import messages, paths
from xenwarden_channel.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon_world import Guest

SYN_PPS = 2000.0
FLOOD = {"rx_packets": SYN_PPS, "rx_bytes": SYN_PPS * 60, "tx_packets": 10.0, "tx_bytes": 600.0}


class Dom0Agent:
    """The agent in dom0: reports, and looks as ordered at VMs that send what `sees` says, by domid."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seq = 0
        self.sees: dict[int, dict[str, float]] = {}
        self.orders: list[str] = []

    def step(self) -> None:
        """Do what is due in a second."""
        store = self._world.store
        self._seq += 1
        own: dict[str, str | float] = {"boot": "00000001", "level": "1", "interval": 1.0, "agent": "0.1.0"}
        store.write(self._path(paths.UP_REPORT), messages.encode("report", self._seq, own))
        try:
            order = messages.parse(store.read(self._path(paths.DOWN_LOOK)), "look")
        except StoreError:
            return
        domids = order.fields["domids"]
        if not self.orders or self.orders[-1] != domids:
            self.orders.append(domids)
        for domid in map(int, filter(None, domids.split(","))):
            fields: dict[str, str | float] = {"interval": 1.0, "missing": "", **self.sees.get(domid, {})}
            value = messages.encode("headers", self._seq, fields)
            store.write(self._path(paths.headers(domid)), value)

    @staticmethod
    def _path(node: str) -> str:
        return paths.absolute(0, node)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


def run(world: World, agent: Dom0Agent | None, seconds: float) -> None:
    for half in range(round(seconds / STEP_S)):
        if agent is not None and half % 2:
            agent.step()
        world.run(STEP_S)


def words(syn_pps: float, udp_pps: float = 0.0) -> dict[str, float]:
    """Return what headers show of a VM that sends so much to one address, and gets no answer."""
    quiet = ("rx_syn_pps", "tx_synack_pps", "rx_synack_pps", "tx_rst_pps", "rx_rst_pps", "rx_udp_pps")
    return {
        **dict.fromkeys((*quiet, "tx_icmp_pps", "rx_icmp_pps", "tx_arp_pps"), 0.0),
        "tx_syn_pps": syn_pps, "tx_udp_pps": udp_pps, "tx_dests": 1.0, "rx_sources": 1.0, "tx_top_share": 1.0,
    }  # fmt: skip


def limits(shown: dict[str, Any]) -> set[str]:
    return {limit["kind"] for limit in shown["limits"]}


def test_the_kind_of_an_agentless_flood_is_told_by_dom0s_headers_and_limited_alone(world: World) -> None:
    agent, mallory = Dom0Agent(world), world.start("mallory", agent=False)
    run(world, agent, 20)
    assert agent.orders == []  # nobody is looked at who is under no suspicion
    mallory.vif = dict(FLOOD)
    agent.sees[mallory.domid] = words(SYN_PPS)
    run(world, agent, 20)
    shown = world.show(mallory)
    assert (shown["state"], shown["verdict"]) == ("contained", "attacker")
    assert limits(shown) == {"vif-pps/syn"}
    by_headers = [item for item in shown["evidence"] if item["signal"] == "tx_syn_pps"]
    assert by_headers
    assert {item["source"] for item in by_headers} == {"hrem"}
    assert shown["signals"]["vif_tx_syn_pps"] == {
        "value": SYN_PPS, "usual": None, "unit": "1/s", "source": "hrem"
    }  # fmt: skip
    assert "vif_tx_syn_pps" not in shown["missing"]
    assert "tcp_fail_ps" in shown["missing"]

    mallory.vif = dict.fromkeys(FLOOD, 0.0)
    agent.sees[mallory.domid] = words(0.0)
    run(world, agent, 90)
    assert world.show(mallory)["state"] == "normal"
    assert agent.orders == [str(mallory.domid), ""]


def test_without_an_agent_in_dom0_all_kinds_are_limited_and_the_headers_are_named_as_missing(
    world: World,
) -> None:
    mallory = world.start("mallory", agent=False)
    run(world, None, 20)
    mallory.vif = dict(FLOOD)
    run(world, None, 8)
    shown = world.show(mallory)
    assert shown["level"] == 2
    assert limits(shown) == {"vif-pps/syn", "vif-pps/udp", "vif-pps/icmp"}
    assert {"vif_tx_syn_pps", "vif_tx_dests", "tx_syn_pps"} <= set(shown["missing"])
    status, out, _err = world.command("show", "mallory")
    assert status == 0
    assert "\nMissing  tx_pps, " in out


def test_where_dom0s_agent_says_nothing_of_the_vm_the_limits_do_not_wait_for_ever(world: World) -> None:
    agent, mallory = Dom0Agent(world), world.start("mallory", agent=False)
    run(world, agent, 20)
    mallory.vif = dict(FLOOD)  # of which the headers show nothing: its backend is elsewhere, for one
    run(world, agent, 10)
    assert limits(world.show(mallory)) == {"vif-pps/syn", "vif-pps/udp", "vif-pps/icmp"}


def lying(world: World, **says: float) -> Guest:
    mallory = world.start("mallory")
    mallory.signals = {"tx_pps": 20.0, "rx_pps": 20.0, "tx_syn_pps": 1.0, "tx_udp_pps": 1.0, **says}
    return mallory


def test_an_agent_that_names_no_kind_is_found_out_by_dom0s_headers(world: World) -> None:
    agent, mallory = Dom0Agent(world), lying(world)
    run(world, agent, 30)
    mallory.vif = dict(FLOOD)
    mallory.signals |= {"tx_pps": SYN_PPS, "rx_pps": 10.0}  # true, and no word of what they are
    agent.sees[mallory.domid] = words(SYN_PPS)
    run(world, agent, 40)
    shown = world.show(mallory)
    assert shown["verdict"] == "attacker"
    assert limits(shown) == {"vif-pps/syn"}
    assert {item["source"] for item in shown["evidence"] if item["signal"] == "tx_syn_pps"} == {"hrem"}
    _status, events, _err = world.command("events", "-n", "100")
    assert "mallory: the agent says 1/s TCP SYN without ACK sent, dom0 counts 2,000/s" in events


def test_what_dom0_saw_itself_stands_above_a_claim_that_would_convict(world: World) -> None:
    """An agent can make itself look bad, or be made to by whoever broke in: dom0 knows better."""
    agent, odd = Dom0Agent(world), lying(world)
    odd.vif = {"rx_packets": 400.0, "rx_bytes": 200_000.0, "tx_packets": 400.0, "tx_bytes": 200_000.0}
    agent.sees[odd.domid] = words(2.0)
    run(world, agent, 30)
    odd.signals |= {"tx_syn_pps": 400.0, "tx_pps": 400.0, "rx_synack_pps": 0.0}
    run(world, agent, 40)
    assert world.show(odd)["verdict"] in (None, "neither")
    assert agent.orders[0] == str(odd.domid)  # it was looked at


def test_no_more_domains_are_looked_at_than_dom0s_agent_takes(world: World) -> None:
    agent = Dom0Agent(world)
    many = [world.start(f"vm{number}") for number in range(paths.MAX_LOOKS + 1)]
    mute = world.start("mute", agent=False)
    run(world, agent, 20)
    for guest in (*many, mute):
        assert world.command("level", guest.name, "2")[0] == 0
    run(world, agent, 3)
    looked_at = list(map(int, agent.orders[-1].split(",")))
    assert len(looked_at) == paths.MAX_LOOKS
    for guest in many[2:]:
        world.command("level", guest.name, "1")
    run(world, agent, 3)
    assert sorted(map(int, agent.orders[-1].split(","))) == sorted(g.domid for g in (*many[:2], mute))


def test_an_order_is_renewed_before_dom0s_agent_lets_go(world: World) -> None:
    agent, mute = Dom0Agent(world), world.start("mute", agent=False)
    run(world, agent, 5)
    world.command("level", "mute", "2")
    run(world, agent, 2)
    node = paths.absolute(0, paths.DOWN_LOOK)
    first = messages.parse(world.store.read(node), "look")
    run(world, agent, (first.number("for") or 0.0) / 2)
    again = messages.parse(world.store.read(node), "look")
    assert again.seq > first.seq
    assert again.fields == first.fields == {"domids": str(mute.domid), "for": "60"}


def test_headers_of_nobody_who_is_looked_at_and_nonsense_change_nothing(world: World) -> None:
    agent, quiet = Dom0Agent(world), world.start("quiet", agent=False)
    run(world, agent, 5)
    raw = messages.encode("headers", 1, {"interval": 1.0, "missing": "", **words(SYN_PPS)})
    for node in (paths.headers(quiet.domid), paths.headers(77), f"{paths.UP_HEADERS_DIR}/x"):
        world.store.write(paths.absolute(0, node), raw)
    run(world, None, 2)
    assert "vif_tx_syn_pps" not in world.show(quiet)["signals"]
    world.command("level", "quiet", "2")
    run(world, None, 2)
    world.store.write(paths.absolute(0, paths.headers(quiet.domid)), b"xw1 headers")
    run(world, None, 2)
    assert "vif_tx_syn_pps" not in world.show(quiet)["signals"]
    world.store.write(paths.absolute(0, paths.headers(quiet.domid)), raw)
    run(world, None, 1)
    assert world.show(quiet)["signals"]["vif_tx_syn_pps"]["value"] == SYN_PPS
    run(world, None, 10)  # nothing new: what is old is not known any more
    assert "vif_tx_syn_pps" not in world.show(quiet)["signals"]
