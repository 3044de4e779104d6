# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ways in which a hostile guest tried to escape, or to have others judged; each once worked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemon_world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon_world import Guest


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def small(pps: float) -> dict[str, float]:
    """Packets of 60 bytes that the VM sends; nothing comes back."""
    return {"rx_packets": pps, "rx_bytes": 60 * pps, "tx_packets": 0.0, "tx_bytes": 0.0}


def state(world: World, guest: Guest) -> str:
    return str(world.service.warden.hsem.state(guest.uuid))


def limits(world: World, guest: Guest) -> list[str]:
    return [str(status.key) for status in world.service.warden.engine.status(guest.uuid)]


def test_agent_that_tells_the_total_and_hides_the_kind(world: World) -> None:
    mallory = world.start("mallory")
    mallory.signals = {"tx_pps": 10, "rx_pps": 10, "tx_syn_pps": 0}
    world.run(60)
    mallory.vif = small(100_000)
    mallory.signals = {"tx_pps": 100_000, "rx_pps": 0, "tx_syn_pps": 0.2}
    world.run(40)
    assert state(world, mallory) == "contained"
    # and goes on in a way that no limit matches: it is not released for that
    world.vifs.drops[mallory.domid] = 0
    world.run(120)
    assert state(world, mallory) == "contained"


def test_agent_that_chooses_the_time_its_report_covers(world: World) -> None:
    mallory = world.start("mallory")
    mallory.signals = {"tx_pps": 10, "rx_pps": 10}
    world.run(60)
    boot, mallory.connection = mallory.connection, None  # from here on it reports by hand
    for second in range(60):
        quiet = second % 13 >= 11
        mallory.vif = small(0 if quiet else 100_000)
        mallory.connection = boot
        if second % 13 == 12:
            mallory.report(level=1, why="", over="", interval=0.01)
        mallory.connection = None
        world.run(1)
    assert state(world, mallory) == "contained"


def test_claimed_hours_teach_no_faster(world: World) -> None:
    mallory = world.start("mallory")
    mallory.signals = {"tx_syn_pps": 10}
    world.run(10)
    history = world.service.warden.history
    before = history.upper(mallory.uuid, "tx_syn_pps")
    boot, mallory.connection = mallory.connection, None
    for _ in range(120):
        mallory.signals = {"tx_syn_pps": 0.99 * (history.upper(mallory.uuid, "tx_syn_pps") or 0.0)}
        mallory.connection = boot
        mallory.report(level=1, why="", over="", interval=3600)
        mallory.connection = None
        world.run(1)
    assert history.upper(mallory.uuid, "tx_syn_pps") == pytest.approx(before, rel=0.05)


def test_claimed_hours_are_no_overflow_and_no_history_of_one(world: World) -> None:
    mallory = world.start("mallory")
    world.run(10)
    boot, mallory.connection = mallory.connection, None
    for second in range(30):
        mallory.signals = {"fork_ps": 5000.0 if second % 10 == 0 else 1.0}
        mallory.connection = boot
        mallory.report(level=1, why="", over="", interval=3600)
        mallory.connection = None
        world.run(1)
    warden = world.service.warden
    assert warden.history.full_s(mallory.uuid, "forks", world.clock.monotonic()) <= 30


def test_decoy_does_not_buy_time_for_a_flood(world: World) -> None:
    mallory = world.start("mallory", agent=False)
    world.run(30)
    world.vifs.drops[mallory.domid] = 0
    mallory.vif = small(250)
    world.run(30)
    mallory.vif = small(1_000_000)
    world.run(15)
    assert limits(world, mallory)


def test_server_without_an_agent_is_not_convicted_for_its_answers(world: World) -> None:
    server, client = world.start("server", agent=False), world.start("client")
    client.signals = {"tx_pps": 10, "rx_pps": 10}
    world.run(40)
    both = {"rx_packets": 800.0, "rx_bytes": 72_000.0, "tx_packets": 800.0, "tx_bytes": 72_000.0}
    server.vif = client.vif = both
    client.signals = {"tx_pps": 800, "rx_pps": 800, "tx_udp_pps": 800, "rx_udp_pps": 800}
    world.run(90)
    assert world.show(server)["verdict"] in (None, "neither")
    assert world.show(client)["verdict"] in (None, "neither")


def test_vif_that_comes_and_goes_hides_no_other(world: World) -> None:
    mallory = world.start("mallory", agent=False)
    world.run(30)
    second = world.sys_root / f"class/net/vif{mallory.domid}.1/statistics"
    second.mkdir(parents=True)
    mallory.vif = small(100_000)
    for left in range(30, 0, -1):  # its counters restart each second
        for name in ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped"):
            (second / name).write_text(f"{left}\n")
        world.run(1)
    assert state(world, mallory) == "contained"


def test_guest_fills_neither_audit_log_nor_pager(world: World) -> None:
    mallory = world.start("mallory")
    for _ in range(60):
        mallory.signals = {"tx_arp_pps": 100_000}
        world.run(2.5)
        mallory.signals = {"tx_arp_pps": 0}
        world.run(2.5)
    events = world.service.warden.database.audit(limit=1000, uuid=mallory.uuid)
    assert len([event for event in events if event["event"] == "alert"]) == 1
    assert len(events) < 60
