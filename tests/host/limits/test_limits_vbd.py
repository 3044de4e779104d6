# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disk limits on a tree of files that looks like cgroup v2, /proc and /sys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from limits_harness import VBD_IO, VM, Host

from xenwarden_channel.fake import FakeStore
from xenwarden_host.errors import LimitError
from xenwarden_host.limits.vbd import DomainVbds
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from pathlib import Path

XVDA, XVDB = 51712, 51728


class Machine:
    """Files stand for the kernel: a write replaces what was there, as the last word to each file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = FakeStore()
        for name in ("cgroup", "proc", "sys/dev/block"):
            (root / name).mkdir(parents=True)
        for name, text in (("controllers", "cpu io memory"), ("subtree_control", "cpu"), ("procs", "")):
            (root / f"cgroup/cgroup.{name}").write_text(text)
        self.vbds = DomainVbds(self.store, cgroups=root / "cgroup", proc=root / "proc", sys=root / "sys")

    def disk(self, domid: int, devid: int, name: str, number: str, pid: int) -> None:
        base = f"/local/domain/0/backend/vbd/{domid}/{devid}"
        for field, text in (("physical-device", number), ("dev", name), ("state", "4")):
            self.store.write(f"{base}/{field}", text.encode())
        self.process(pid, f"{domid}.{name}-0", b"")

    def process(self, pid: int, comm: str, cmdline: bytes) -> None:
        folder = self.root / "proc" / str(pid)
        folder.mkdir()
        (folder / "comm").write_text(f"{comm}\n")
        (folder / "cmdline").write_bytes(cmdline)

    def text(self, name: str) -> str:
        return (self.root / "cgroup" / name).read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_disks_threads_go_into_a_group_with_its_limit_and_back(machine: Machine) -> None:
    machine.disk(1, XVDA, "xvda", "fe:10", 300)
    machine.process(301, "1.xvda-0", b"/usr/bin/liar\0")
    assert machine.vbds.limits(1) == {XVDA: None}
    machine.vbds.set_limits(1, {XVDA: 1048576})
    assert machine.text("cgroup.subtree_control") == "+io"
    assert machine.text("xenwarden-vbd-1/io.max") == "254:16 rbps=1048576 wbps=1048576"
    assert machine.text("xenwarden-vbd-1/cgroup.procs") == "300"
    assert machine.vbds.limits(1) == {XVDA: 1048576}


def test_a_thread_that_is_new_after_a_reconnect_is_not_limited(machine: Machine) -> None:
    machine.disk(1, XVDA, "xvda", "fe:10", 300)
    machine.vbds.set_limits(1, {XVDA: 1048576})
    machine.process(400, "1.xvda-1", b"")
    assert machine.vbds.limits(1) == {XVDA: None}


def test_a_disk_of_another_domain_with_a_like_number_is_none_of_ours(machine: Machine) -> None:
    machine.disk(1, XVDA, "xvda", "fe:10", 300)
    machine.disk(11, XVDA, "xvda", "fe:20", 301)
    machine.vbds.set_limits(1, {XVDA: 5})
    assert machine.vbds.limits(11) == {XVDA: None}
    assert machine.text("xenwarden-vbd-1/cgroup.procs") == "300"


def test_a_partition_is_limited_by_its_disk(machine: Machine) -> None:
    real = machine.root / "sys/devices/sda/sda1"
    real.mkdir(parents=True)
    (real / "partition").write_text("1")
    (real.parent / "dev").write_text("8:0\n")
    (machine.root / "sys/dev/block/8:1").symlink_to(real)
    machine.disk(1, XVDA, "xvda", "8:1", 300)
    machine.vbds.set_limits(1, {XVDA: 5})
    assert machine.text("xenwarden-vbd-1/io.max").startswith("8:0 ")


def test_the_value_is_the_whole_vms_and_a_new_domain_of_it_is_limited_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.vbds.disks[host.domid] = {XVDA: None, XVDB: None}
    host.want(VBD_IO, 10 << 20)
    (event,) = host.tick()
    assert (event.state, host.vbds.disks[host.domid]) == (LimitState.SET, {XVDA: 5 << 20, XVDB: 5 << 20})
    host.migrate()
    host.vbds.disks[host.domid] = {XVDA: None}
    host.tick()
    assert host.vbds.disks[host.domid] == {XVDA: 10 << 20}
    host.engine.lift_all(VM)
    host.tick()
    assert host.vbds.disks[host.domid] == {XVDA: None}


def test_group_of_a_domain_that_is_gone_goes_with_the_next_change(machine: Machine) -> None:
    (machine.root / "cgroup/xenwarden-vbd-7").mkdir()  # as the kernel has it: no thread is in it
    machine.disk(1, XVDA, "xvda", "fe:10", 300)
    machine.vbds.set_limits(1, {XVDA: 5})
    assert [path.name for path in (machine.root / "cgroup").glob("xenwarden-*")] == ["xenwarden-vbd-1"]


@pytest.mark.parametrize("number", ["8:1", "none"])
def test_disk_that_cannot_be_looked_up_is_a_named_state(machine: Machine, number: str) -> None:
    """One disk must not keep the other VMs from their limits."""
    (machine.root / "sys/devices/sda/sda1").mkdir(parents=True)
    (machine.root / "sys/devices/sda/sda1/partition").write_text("1")
    (machine.root / "sys/dev/block/8:1").symlink_to(machine.root / "sys/devices/sda/sda1")
    machine.disk(1, XVDA, "xvda", number, 300)
    with pytest.raises(LimitError) as refused:
        machine.vbds.limits(1)
    assert refused.value.state == LimitState.FAILED


def test_without_cgroup_v2_or_disk_it_is_a_named_state(machine: Machine) -> None:
    assert machine.vbds.limits(1) == {}
    machine.disk(1, XVDA, "xvda", "fe:10", 300)
    (machine.root / "cgroup/cgroup.controllers").unlink()
    with pytest.raises(LimitError) as refused:
        machine.vbds.limits(1)
    assert refused.value.state == LimitState.UNSUPPORTED


def test_a_kernel_that_refuses_is_a_named_state(machine: Machine) -> None:
    machine.disk(1, XVDA, "xvda", "fe:10", 300)
    (machine.root / "cgroup/xenwarden-vbd-1").write_text("in the way")
    with pytest.raises(LimitError) as refused:
        machine.vbds.set_limits(1, {XVDA: 5})
    assert refused.value.state == LimitState.FAILED
