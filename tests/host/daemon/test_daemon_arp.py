# SPDX-License-Identifier: LGPL-2.1-or-later
"""What dom0's own agent hears of ARP, from its node in XenStore to the limit on the vif, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemon_world import STEP_S, World

from xenwarden_channel import messages, paths
from xenwarden_host.records import PacketClass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon_world import Guest

NODE = paths.absolute(0, paths.UP_ARP)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


class Ears:
    """dom0's agent, as far as ARP goes: what it tells each second, by domid."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seq = 0
        self.tells: dict[int, tuple[float, float]] = {}  # claims and claimed

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            if self.tells:
                self._seq += 1
                fields = {
                    "domids": ",".join(map(str, self.tells)),
                    "claims": ",".join(str(claims) for claims, _claimed in self.tells.values()),
                    "claimed": ",".join(str(claimed) for _claims, claimed in self.tells.values()),
                }
                self._world.store.write(NODE, messages.encode("arp", self._seq, fields))
            for _ in range(round(1 / STEP_S)):
                self._world.run(STEP_S)


def arp_limit(world: World, guest: Guest) -> int | None:
    return next(iter(world.vifs.police(guest.domid).values())).get(PacketClass.ARP)


def test_a_spoofer_without_an_agent_gets_no_arp_through_until_it_stops(world: World) -> None:
    ears = Ears(world)
    mallory, victim = world.start("mallory", agent=False), world.start("victim")
    ears.run(20)
    ears.tells = {mallory.domid: (1.0, 0.0), victim.domid: (0.0, 1.0)}
    ears.run(20)
    assert (world.show(mallory)["verdict"], world.show(victim)["verdict"]) == ("attacker", "victim")
    assert arp_limit(world, mallory) == 0
    assert {limit["kind"] for limit in world.show(mallory)["limits"]} == {"vif-pps/arp"}
    assert world.show(victim)["limits"] == []
    assert "arp_claim_pps" in {item["signal"] for item in world.show(mallory)["evidence"]}

    ears.tells = {mallory.domid: (0.0, 0.0), victim.domid: (0.0, 0.0)}
    ears.run(1)
    ears.tells = {}
    ears.run(60)
    assert world.show(mallory)["state"] == "normal"
    assert arp_limit(world, mallory) is None


def test_a_message_counts_once_however_long_it_stands(world: World) -> None:
    ears = Ears(world)
    mallory = world.start("mallory")
    ears.run(20)
    ears.tells = {mallory.domid: (5.0, 0.0)}
    ears.run(2)
    ears.tells = {}
    ears.run(30)
    assert (world.show(mallory)["state"], world.show(mallory)["verdict"]) == ("normal", None)


def test_no_guest_tells_of_another(world: World) -> None:
    liar, bystander = world.start("liar"), world.start("bystander")
    for seq in range(30):
        fields = {"domids": str(bystander.domid), "claims": "9", "claimed": "0"}
        node = paths.absolute(liar.domid, paths.UP_ARP)
        world.store.write(node, messages.encode("arp", seq, fields))
        world.run(1)
    assert (world.show(bystander)["state"], world.show(liar)["state"]) == ("normal", "normal")
