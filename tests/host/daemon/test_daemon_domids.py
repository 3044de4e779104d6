# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domid is only an address: another VM may have it next, and one VM may have two for a while."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from test_daemon_process import report

from xenwarden_channel import paths
from xenwarden_channel.client import StoreClient
from xenwarden_host.daemon.clock import SystemClock
from xenwarden_host.daemon.tracker import Tracker
from xenwarden_host.records import DomainInfo, VmType

if TYPE_CHECKING:
    from xenstore_worlds import Wait
    from xenstored_offline import Xenstored

    from xenwarden_host.protocols import Hypervisor

pytestmark = pytest.mark.xenstored

FIRST = DomainInfo(
    domid=5, uuid="first", name="first", vm_type=VmType.PV, cpu_time_s=1.0, memory_kb=1,
    max_memory_kb=1, vcpus_online=1, paused=False, dying=False,
)  # fmt: skip


class Host:
    """The daemon's tracker on a real store; `domains` is what Xen would list."""

    def __init__(self, xenstored: Xenstored, *domains: DomainInfo) -> None:
        self.domains = list(domains)
        self.store = StoreClient(xenstored.socket)
        self.tracker = Tracker(cast("Hypervisor", self), self.store, SystemClock(), passive=False)
        self.tracker.refresh()

    def list_domains(self) -> list[DomainInfo]:
        return list(self.domains)

    def listen(self) -> bool:
        """Do what the daemon does when the store has something to say."""
        self.tracker.drain()
        if self.tracker.domains_changed:
            self.tracker.refresh()
        self.tracker.read()
        return True

    def tx_pps(self, domid: int) -> float | None:
        """Return what the domain's agent said last."""
        self.listen()
        said = self.tracker.guests[domid].inbox.report
        return said.signals["tx_pps"] if said else None


def test_a_domid_that_is_used_again_is_another_vm(xenstored: Xenstored, eventually: Wait) -> None:
    xenstored.create(5)
    host = Host(xenstored, FIRST)
    xenstored.guest(5).write(paths.UP_REPORT, report(900, tx_pps=1))
    eventually(lambda: host.tx_pps(5) == 1)
    first = host.tracker.guests[5]

    xenstored.destroy(5)
    xenstored.create(5)
    host.domains = [replace(FIRST, uuid="second", name="second")]
    # Its first report is there before dom0 has looked at all, of a lower number than the other's last.
    xenstored.guest(5).write(paths.UP_REPORT, report(1, tx_pps=2))
    eventually(lambda: host.listen() and host.tracker.guests[5].info.uuid == "second")
    eventually(lambda: host.tx_pps(5) == 2)
    assert first.inbox.report is not None
    assert first.inbox.report.signals["tx_pps"] == 1
    assert host.tracker.guests[5].inbox.bad_values == 0
    assert host.store.permissions("/local/domain/5/xenwarden") == ["n0", "r5"]
    assert host.store._events.watches().count(("/local/domain/5/data/xenwarden", "up/5")) == 1
    host.store.close()


def test_one_vm_on_two_domids_is_heard_on_each_by_itself(xenstored: Xenstored, eventually: Wait) -> None:
    """As during a live migration on one host: the receiving domain is paused until the other has stopped."""
    for domid in (5, 6):
        xenstored.create(domid)
    host = Host(xenstored, FIRST, replace(FIRST, domid=6, paused=True))
    xenstored.guest(5).write(paths.UP_REPORT, report(10, tx_pps=5))
    eventually(lambda: host.tx_pps(5) == 5)
    assert host.tx_pps(6) is None
    assert host.tracker.vms()["first"].info.domid == 5

    host.domains = [replace(FIRST, domid=6)]
    xenstored.destroy(5)
    xenstored.guest(6).write(paths.UP_REPORT, report(11, tx_pps=6))
    eventually(lambda: host.tx_pps(6) == 6)
    assert host.tracker.vms()["first"].info.domid == 6
    assert list(host.tracker.guests) == [6]
    host.store.close()
