# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that holds a XenStore transaction open slows all others: it is named, and nobody else blamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from daemon_world import World

from xenwarden_channel import messages, paths, wire
from xenwarden_channel.client import StoreClient
from xenwarden_channel.errors import InvalidError
from xenwarden_host.audit import Audit
from xenwarden_host.daemon.clock import FakeClock
from xenwarden_host.daemon.storeuse import StoreUse
from xenwarden_host.daemon.tracker import Guest
from xenwarden_host.database import Database
from xenwarden_host.records import DomainInfo, VmType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xenstored_offline import Xenstored

MALLORY, HONEST = 5, 6


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def told(world: World) -> list[str]:
    events = world.service.warden.database.audit(limit=1000)
    return [event["text"] for event in events if event["event"] == "transaction-held"]


def domain(domid: int) -> DomainInfo:
    return DomainInfo(
        domid=domid, uuid=f"u{domid}", name=f"vm{domid}", vm_type=VmType.PV, cpu_time_s=1.0, memory_kb=1,
        max_memory_kb=1, vcpus_online=1, paused=False, dying=False,
    )  # fmt: skip


@pytest.mark.xenstored
def test_who_holds_a_transaction_on_the_real_daemon_is_named(xenstored: Xenstored, tmp_path: Path) -> None:
    for domid in (MALLORY, HONEST):
        xenstored.create(domid)
    store, clock = StoreClient(xenstored.socket), FakeClock()
    database = Database(tmp_path / "state.db", audit_rows=100, audit_days=1)
    use = StoreUse(store, clock, Audit(database, clock))
    guests = {domid: Guest(domain(domid), 1) for domid in (MALLORY, HONEST)}
    mallory, honest = xenstored.ring(MALLORY), xenstored.guest(HONEST)
    honest.write(paths.UP_REPORT, messages.encode("report", 1, {"level": "1"}))
    use.look(guests)
    assert use.of(HONEST)["nodes"] >= 1

    mallory.ask(wire.TRANSACTION_START, b"\0")
    for _ in range(40):
        clock.advance(2.0)
        use.look(guests)
    events = [event for event in database.audit(limit=100) if event["event"] == "transaction-held"]
    if xenstored.kind == "xenstored":
        held_s = use.held_s(MALLORY)
        assert held_s is not None
        assert held_s >= 70
        assert use.suspects() == {MALLORY}
        assert [event["name"] for event in events] == ["vm5", "vm5"]  # once a minute
    else:
        assert (use.suspects(), events) == (frozenset(), [])
    assert use.held_s(HONEST) is None
    store.close()
    database.close()


def test_no_honest_guest_is_silent_while_another_holds_a_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mallory, honest = world.start("mallory"), world.start("honest")
    world.run(seconds=10)
    holding = {mallory.domid}
    monkeypatch.setattr(
        world.store, "usage", lambda domid: {"nodes": 1, "transactions": int(domid in holding)}
    )
    for guest in (mallory, honest):
        guest.stop_agent()  # nothing comes through any more
    world.run(seconds=60)
    agents = {vm["name"]: vm["agent"] for vm in world.xenwarden("list")["vms"]}
    assert (agents["mallory"], agents["honest"]) == ("silent", "alive")
    assert len(told(world)) == 1
    notices: list[str] = world.xenwarden("list")["notices"]
    assert any(text.startswith("mallory holds a XenStore transaction open for") for text in notices)
    assert world.show(mallory)["xenstore"]["transaction_held_s"] > 50
    assert "transaction open for" in world.command("show", "mallory")[1]

    holding.clear()
    world.run(seconds=30)
    assert world.show(honest)["agent"]["state"] == "silent"  # the excuse is over
    assert world.xenwarden("list")["notices"] == []


def test_short_transactions_are_nobodys_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start("busy")
    calls = iter(range(10_000))
    monkeypatch.setattr(world.store, "usage", lambda _domid: {"transactions": int(next(calls) % 3 == 0)})
    world.run(seconds=60)
    assert told(world) == []


def test_a_daemon_that_does_not_tell_is_asked_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = world.start("web")
    asked: list[int] = []

    def refuse(domid: int) -> dict[str, Any]:
        asked.append(domid)
        raise InvalidError("DEBUG: EINVAL", "EINVAL")

    monkeypatch.setattr(world.store, "usage", refuse)
    world.run(seconds=20)
    assert len(asked) == 1
    assert world.show(guest)["xenstore"]["nodes"] is None
    assert world.xenwarden("list")["daemon"]["errors"] == {}
