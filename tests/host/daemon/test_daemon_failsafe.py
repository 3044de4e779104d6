# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of limits when the daemon is gone: the journal is the daemon's own, Xen is in memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from daemon_world import World

from xenwarden_channel import paths
from xenwarden_host.daemon import failsafe
from xenwarden_host.daemon import main as daemon
from xenwarden_host.errors import XenwardenError
from xenwarden_host.records import LimitKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLICY = "fail_safe: release\nvms: [{name: 'keep*', fail_safe: keep}]\n"
BEFORE = (80, "999999,50000")
LIMITED = (25, "50000,40000")


def limit_both(world: World) -> None:
    for name in ("keep1", "web"):
        world.start(name, cap=80, rate="999999,50000")
    world.run(seconds=1)
    for name in ("keep1", "web"):
        world.xenwarden("limit", name, "--cap", "25", "--vif-rate", "10Mb/s")


def run(world: World, *words: str) -> int:
    places = ["--config", world.config, "--state-dir", world.state_dir, "--run-dir", world.run_dir]
    options = failsafe.arguments().parse_args([*map(str, places), *words])
    return failsafe.run(options, hypervisor=world.hypervisor, store=world.store, vifs=world.vifs, vbds=None)


def stands(world: World, name: str) -> tuple[int | None, str | None]:
    domid = world.guests[name].domid
    return world.hypervisor.sched_params(domid).cap, world.vifs.rate(domid, 0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two limited VMs, and a daemon that died."""
    made = World(tmp_path, policy=POLICY)
    made.begin()
    limit_both(made)
    made.crash()
    assert (stands(made, "keep1"), stands(made, "web")) == (LIMITED, LIMITED)
    yield made
    made.store.close()


def test_each_vm_is_kept_or_released_as_its_policy_says(world: World) -> None:
    # A new backend came without the rate while nobody looked.
    world.vifs.set_rate(world.guests["keep1"].domid, 0, None)
    for _ in range(2):
        assert run(world) == 0
        assert (stands(world, "keep1"), stands(world, "web")) == (LIMITED, BEFORE)


def test_removal_puts_everything_back_whatever_the_policy_says(world: World) -> None:
    assert run(world, "--release") == 0
    assert (stands(world, "keep1"), stands(world, "web")) == (BEFORE, BEFORE)


def test_what_cannot_be_put_back_is_a_failure_and_comes_next_time(world: World) -> None:
    world.hypervisor.refuse = {"set_sched_params"}
    assert run(world, "--release") == 1
    assert stands(world, "web") == (25, "999999,50000")
    world.hypervisor.refuse = set()
    assert run(world, "--release") == 0
    assert stands(world, "web") == BEFORE


def test_vm_that_is_gone_or_lost_its_vif_is_no_failure(world: World) -> None:
    world.hypervisor.destroy(world.guests["web"].domid)
    del world.vifs.vifs[world.guests["keep1"].domid][0]
    assert run(world, "--release") == 0
    assert world.hypervisor.sched_params(world.guests["keep1"].domid).cap == 80


def test_wrong_policy_keeps_no_original_from_being_put_back(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.config.write_text("fail_safe: perhaps\n")
    assert run(world) == 0
    assert stands(world, "web") == LIMITED  # as the built-in policy says
    assert "the built-in policy is used" in capsys.readouterr().err
    assert run(world, "--release") == 0
    assert stands(world, "web") == BEFORE


def test_damaged_journal_is_told_and_a_failure(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for file in world.state_dir.iterdir():
        file.write_bytes(b"\0" * 5000)
    assert run(world, "--release") == 1
    assert "damaged" in capsys.readouterr().err
    assert (world.state_dir / "state.db.damaged-1").exists()


def test_it_leaves_a_running_daemon_alone(world: World) -> None:
    places = ["--run-dir", str(world.run_dir), "--state-dir", str(world.state_dir)]
    lock = daemon.take_instance(daemon.arguments().parse_args(places))
    try:
        with pytest.raises(XenwardenError, match="another xenwardend runs"):
            run(world, "--release")
    finally:
        os.close(lock)
    assert stands(world, "web") == LIMITED


def test_host_where_no_daemon_ever_ran_has_nothing_to_do(tmp_path: Path) -> None:
    assert failsafe.main(["--state-dir", str(tmp_path / "none"), "--run-dir", str(tmp_path / "run")]) == 0
    assert list(tmp_path.iterdir()) == []


def test_daemon_that_is_stopped_keeps_and_releases_alike(tmp_path: Path) -> None:
    with World(tmp_path, policy=POLICY) as world:
        limit_both(world)
    assert (stands(world, "keep1"), stands(world, "web")) == (LIMITED, BEFORE)


@pytest.mark.parametrize("words", [(), ("--release",)])
def test_what_was_granted_and_lent_goes_the_same_way(tmp_path: Path, words: tuple[str, ...]) -> None:
    made = World(tmp_path, policy=POLICY)
    made.begin()
    for name in ("keep1", "web"):
        guest = made.start(name)
        book = made.service.warden.desk.book
        book.grant((guest.uuid, LimitKind.MEMORY), 300000, "asked", 0.0)
        book.lend((guest.uuid, LimitKind.WEIGHT), 320, "hungry", 0.0)
        domains = {info.uuid: info for info in made.hypervisor.list_domains()}
        book.reconcile(domains, (), lambda _id, problem: pytest.fail(str(problem)))
    made.crash()
    made.store.close()
    assert run(made, *words) == 0
    for name, guest in made.guests.items():
        stands_now = (
            made.hypervisor.targets_kb[guest.domid],
            made.hypervisor.sched_params(guest.domid).weight,
        )
        assert stands_now == ((300000, 320) if name == "keep1" and not words else (262144, 256))


def test_node_of_xenstore_says_whose_limits_are_kept(world: World) -> None:
    world.store.write(f"{paths.VM_DIR}/{world.guests['keep1'].uuid}/fail_safe", b"release")
    world.store.write(f"{paths.VM_DIR}/{world.guests['web'].uuid}/fail_safe", b"keep")
    assert run(world) == 0
    assert (stands(world, "keep1"), stands(world, "web")) == (BEFORE, LIMITED)


def test_without_xenstore_the_file_says_whose_limits_are_kept(world: World) -> None:
    world.store.lose()
    assert run(world) == 0
    assert (stands(world, "keep1"), stands(world, "web")) == (LIMITED, BEFORE)
