# SPDX-License-Identifier: LGPL-2.1-or-later
"""A limited VM comes to a new domain: its limits do not wait for the next tick."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon_world import World

from xenwarden_host.limits.fake import FakeVbds
from xenwarden_host.records import PacketClass

if TYPE_CHECKING:
    from pathlib import Path


def test_limits_follow_a_vm_to_its_new_domain_between_ticks(tmp_path: Path) -> None:
    with World(tmp_path, policy="tick_s: 600\n") as world:
        guest = world.start("mallory", agent=False)
        world.run(1)
        status, _, said = world.command("limit", "mallory", "--vif-rate", "10Mb/s", "--vif-pps", "syn=100")
        assert status == 0, said

        world.migrate(guest)
        world.hypervisor.change(guest.domid, cpu_time_s=0.0)
        world.run(1)
        vif = world.vifs.vifs[guest.domid][0]
        assert (vif.police, vif.rate) == ({PacketClass.SYN: 100}, None), "before its first turn"

        world.hypervisor.change(guest.domid, cpu_time_s=0.1)
        world.run(1)
        assert vif.rate == "50000,40000"
        assert {row["state"] for row in world.xenwarden("limits")} == {"set"}
        assert world.service.warden.ticks == 1


def test_a_disk_that_the_guest_connects_anew_is_limited_again_between_ticks(tmp_path: Path) -> None:
    world = World(tmp_path, policy="tick_s: 600\n")
    world.vbds = FakeVbds()
    with world:
        guest = world.start("mallory", agent=False)
        state = f"/local/domain/0/backend/vbd/{guest.domid}/51712/state"
        world.vbds.disks[guest.domid] = {51712: None}
        world.run(1)
        assert world.command("limit", "mallory", "--vbd-io", "10MB/s")[0] == 0
        limited = dict(world.vbds.disks[guest.domid])
        assert limited[51712] is not None
        world.run(20)

        world.vbds.disks[guest.domid] = {51712: None}  # its threads are new
        world.store.write(state, b"4")
        world.run(1)
        assert world.vbds.disks[guest.domid] == limited
        assert world.service.warden.ticks == 1
