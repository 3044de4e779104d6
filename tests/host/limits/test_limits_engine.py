# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an operator sees of the limit engine, on a Xen and vifs in memory and a real journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from limits_harness import CAP, MEMORY, PAUSE, RATE, SYN, UDP, VBD_IO, VCPUS, VIF_IN, VM, WEIGHT, Host

from xenwarden_host.errors import HypervisorError, LimitError
from xenwarden_host.libxl.fake import DOM0_UUID
from xenwarden_host.records import LimitState, PacketClass

if TYPE_CHECKING:
    from pathlib import Path

    from xenwarden_host.records import LimitKey


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_cap_is_set_read_back_told_and_lifted_to_what_was_there(tmp_path: Path) -> None:
    host = Host(tmp_path, cap=80)
    host.want(CAP, 25)
    assert [s.state for s in host.engine.status()] == [LimitState.PENDING]
    (event,) = host.tick()
    assert (event.state, event.value, event.original, host.cap) == (LimitState.SET, 25, "80", 25)
    assert host.engine.held(VM) == {CAP}
    assert host.tick() == []
    host.engine.lift(VM, CAP, "hsem")
    (event,) = host.tick()
    assert (event.state, event.value, event.original, host.cap) == (LimitState.LIFTED, 25, "80", 80)
    assert host.engine.status() == []
    assert host.engine.held(VM) == frozenset()


def test_how_long_a_decision_took_is_told_once_it_stands(host: Host) -> None:
    host.want(CAP, 25)
    (event,) = host.tick()  # a second later
    assert event.took_s == pytest.approx(1)
    host.tick()
    host.want(CAP, 25)  # nothing new
    assert host.tick() == []
    host.want(CAP, 20)
    host.clock.now += 2
    (event,) = host.tick()
    assert event.took_s == pytest.approx(3)
    host.restart()
    (event,) = host.tick()
    assert event.took_s is None


def test_the_weight_is_left_alone(tmp_path: Path) -> None:
    host = Host(tmp_path, weight=512)
    host.want(CAP, 25)
    host.tick()
    host.engine.lift_all(VM)
    host.tick()
    assert host.xen.sched_params(host.domid).weight == 512


def test_a_rate_is_divided_over_vifs_and_queues(host: Host) -> None:
    host.vifs.add(host.domid, 1, queues=4)
    host.want(RATE, 10_000_000)
    host.tick()
    rates = [host.vifs.rate(host.domid, devid) for devid in (0, 1)]
    assert rates == ["25000,40000", "6250,40000"]
    bits_per_s = sum(
        int(r.split(",")[0]) * 8 * 25 * host.vifs.queues(host.domid, devid)
        for devid, r in enumerate(rates)
        if r
    )
    assert 9_990_000 < bits_per_s <= 10_000_000


@pytest.mark.parametrize("mbit_per_s", [1, 5, 10, 13, 14, 25, 50, 100, 300, 1000, 10_000])
def test_netback_can_keep_the_rate_that_is_asked(host: Host, mbit_per_s: int) -> None:
    """What netback cuts off a credit, some 30 kB where it is above 64 KiB, is little beside it."""
    host.want(RATE, mbit_per_s * 1_000_000)
    host.tick()
    credit, usecs = (int(word) for word in (host.rate or "").split(","))
    lost = 0 if credit <= 64 << 10 else 30_000
    assert 0.9 * mbit_per_s < (credit - lost) * 8 / usecs
    assert credit * 8 / usecs <= mbit_per_s
    # Whole ticks, whatever dom0's kernel calls one: it rounds up.
    assert [usecs % (1_000_000 // hz) for hz in (100, 250, 1000)] == [0, 0, 0]
    assert usecs * 300 % 1_000_000 == 0


def test_an_admins_rate_is_restored_to_the_letter(host: Host) -> None:
    host.vifs.set_rate(host.domid, 0, "0125000,50000")
    host.want(RATE, 1_000_000)
    host.tick()
    assert host.rate == "5000,40000"
    host.engine.lift_all(None)
    host.tick()
    assert host.rate == "0125000,50000"


def test_a_stricter_rate_of_the_admin_stays(host: Host) -> None:
    host.vifs.set_rate(host.domid, 0, "1000,50000")
    host.want(RATE, 1_000_000)
    (event,) = host.tick()
    assert (event.state, host.rate) == (LimitState.SET, "1000,50000")
    assert "stricter" in event.detail


def test_packet_limits_of_two_classes_do_not_disturb_each_other(host: Host) -> None:
    host.want(SYN, 100)
    host.want(UDP, 500)
    host.tick()
    assert host.vifs.police(host.domid)[0] == {PacketClass.SYN: 100, PacketClass.UDP: 500}
    host.engine.lift(VM, SYN, "hsem")
    host.tick()
    assert host.vifs.police(host.domid)[0] == {PacketClass.UDP: 500}


def test_an_operators_word_stands_over_hsems(host: Host) -> None:
    host.want(CAP, 20)
    host.want(CAP, 60, "operator:root")
    host.tick()
    assert host.cap == 60
    host.engine.lift_all(VM, "operator:root")
    host.tick()
    assert host.cap == 20


def test_a_limit_lapses_when_its_time_is_over(host: Host) -> None:
    host.engine.want(VM, CAP, 20, "operator:root", "for ten seconds", host.clock.now + 10)
    host.tick()
    assert host.cap == 20
    host.clock.now += 10
    (event,) = host.tick()
    assert (event.state, host.cap) == (LimitState.LIFTED, 0)


def test_what_an_admin_sets_meanwhile_is_restored_and_the_stricter_holds_until_then(host: Host) -> None:
    host.want(CAP, 20)
    host.tick()
    host.xen.set_sched_params(host.domid, cap=50)
    (event,) = host.tick()
    assert (host.cap, event.original) == (20, "50")
    host.xen.set_sched_params(host.domid, cap=5)
    host.tick()
    assert host.cap == 5
    host.xen.set_sched_params(host.domid, cap=70)
    host.tick()
    assert host.cap == 20
    host.engine.lift_all(VM)
    host.tick()
    assert host.cap == 70


@pytest.mark.parametrize("restart", [False, True])
def test_a_migrated_vm_gets_its_limits_back_and_a_limit_is_never_taken_for_the_original(
    tmp_path: Path, *, restart: bool
) -> None:
    host = Host(tmp_path, cap=90)
    host.want(CAP, 20)
    host.want(RATE, 1_000_000)
    host.want(SYN, 100)
    host.tick()
    host.migrate()
    if restart:
        host.restart()
    assert {(e.key, e.state) for e in host.tick()} <= {(k, LimitState.SET) for k in (CAP, RATE, SYN)}
    assert (host.cap, host.rate) == (20, "5000,40000")
    assert host.vifs.police(host.domid)[0] == {PacketClass.SYN: 100}
    assert host.engine.held(VM) == {CAP, RATE, SYN}
    host.engine.lift_all(VM)
    host.tick()
    assert (host.cap, host.rate, host.vifs.police(host.domid)[0]) == (90, None, {})


def test_a_vm_restored_from_a_save_file_does_not_keep_a_cap_that_was_lifted_since(host: Host) -> None:
    host.want(CAP, 20)
    host.tick()
    host.want(CAP, 10)
    host.tick()
    host.xen.destroy(host.domid)  # `xl save` while the cap was 20 ...
    host.tick()
    host.engine.lift_all(VM)
    host.tick()
    host.restart()
    host.domid = host.xen.add(VM, "mallory", cap=20)  # ... and `xl restore` after it was lifted
    host.vifs.add(host.domid)
    (event,) = host.tick()
    assert (event.state, host.cap) == (LimitState.LIFTED, 0)
    assert host.tick() == []


def test_after_a_reboot_of_dom0_a_reused_domid_is_not_taken_for_the_same_domain(host: Host) -> None:
    host.want(CAP, 20)
    host.tick()
    host.want(CAP, 10)
    host.tick()
    host.boot = "boot-2"
    host.xen.set_sched_params(host.domid, cap=20)  # an old save file's
    host.restart()
    host.tick()
    assert host.cap == 10
    host.engine.lift_all(VM)
    host.tick()
    assert host.cap == 0


def test_a_domain_that_is_still_being_built_is_not_judged(host: Host) -> None:
    host.xen.set_sched_params(host.domid, cap=50)
    host.want(CAP, 20)
    host.tick()
    host.xen.destroy(host.domid)
    host.domid = host.xen.add(VM, "mallory", cpu_time_s=0)  # no cap yet: libxl sets it later
    (event,) = host.tick()
    assert (event.state, event.original) == (LimitState.PENDING, "50")
    host.xen.set_sched_params(host.domid, cap=50)
    host.xen.change(host.domid, cpu_time_s=0.1)
    host.tick()
    assert host.cap == 20
    host.engine.lift_all(VM)
    host.tick()
    assert host.cap == 50


def test_packets_are_limited_before_a_new_domain_runs(host: Host) -> None:
    host.want(SYN, 100)
    host.tick()
    host.xen.destroy(host.domid)
    host.vifs.vifs.clear()
    host.domid = host.xen.add(VM, "mallory", cpu_time_s=0)
    host.vifs.add(host.domid)
    host.tick()
    assert host.vifs.police(host.domid) == {0: {SYN.match: 100}}


def test_while_a_vm_migrates_the_domain_that_runs_counts(host: Host) -> None:
    host.want(CAP, 20)
    host.tick()
    host.xen.add(VM, "mallory--incoming", cpu_time_s=0)
    assert host.tick() == []
    assert host.engine.held(VM) == {CAP}


def test_dom0_and_service_domains_are_never_limited(host: Host) -> None:
    host.engine.want(DOM0_UUID, CAP, 10, "hsem", "a bad idea")
    stub = host.xen.add("6f2f7a0c-0000-4000-8000-00000000000f", "netvm", service=True)
    host.engine.want("6f2f7a0c-0000-4000-8000-00000000000f", CAP, 10, "operator:root", "another")
    assert [e.state for e in host.tick()] == [LimitState.PROTECTED] * 2
    assert host.xen.calls == []
    assert host.xen.sched_params(stub).cap == 0


@pytest.mark.parametrize("scheduler", ["null", "arinc653", "rtds"])
def test_a_scheduler_without_cap_is_a_named_state(tmp_path: Path, scheduler: str) -> None:
    host = Host(tmp_path)
    host.xen.scheduler = scheduler
    host.want(CAP, 20)
    (event,) = host.tick()
    assert (event.state, event.detail) == (LimitState.UNSUPPORTED, f"the {scheduler} scheduler has no cap")
    assert host.engine.held(VM) == frozenset()


def test_a_vm_without_vif_is_a_named_state(host: Host) -> None:
    host.vifs.vifs.clear()
    host.want(RATE, 1000)
    (event,) = host.tick()
    assert event.state is LimitState.NO_TARGET


def test_a_refused_write_is_told_and_tried_again(host: Host) -> None:
    host.xen.refuse.add("set_sched_params")
    host.want(CAP, 20)
    (event,) = host.tick()
    assert event.state is LimitState.FAILED
    assert "ERROR_FAIL" in event.detail
    assert host.tick() == []
    host.xen.refuse.clear()
    (event,) = host.tick()
    assert (event.state, host.cap) == (LimitState.SET, 20)


def test_a_limit_that_cannot_be_lifted_is_told_until_it_is(host: Host) -> None:
    host.want(CAP, 20)
    host.tick()
    host.engine.lift_all(VM)
    host.xen.refuse.add("set_sched_params")
    (event,) = host.tick()
    assert event.state is LimitState.FAILED
    assert "not restored" in event.detail
    assert [s.state for s in host.engine.status(VM)] == [LimitState.FAILED]
    host.restart()
    host.xen.refuse.clear()
    (event,) = host.tick()
    assert (event.state, host.cap) == (LimitState.LIFTED, 0)


def test_one_vm_that_fails_keeps_no_other_from_its_limit(host: Host) -> None:
    other = "6f2f7a0c-0000-4000-8000-000000000002"
    domid = host.xen.add(other, "other")
    host.want(CAP, 20)
    host.engine.want(other, CAP, 30, "hsem", "too")
    domains = host.xen.list_domains()
    host.xen.destroy(host.domid)  # dies between listing and calling
    events = {e.uuid: e.state for e in host.engine.reconcile(domains)}
    assert events == {VM: LimitState.NO_TARGET, other: LimitState.SET}
    assert host.xen.sched_params(domid).cap == 30


def test_a_vif_plugged_in_later_is_limited_too_and_the_rate_divided_anew(host: Host) -> None:
    host.want(RATE, 10_000_000)
    host.tick()
    host.vifs.add(host.domid, 1)
    host.tick()
    assert [host.vifs.rate(host.domid, d) for d in (0, 1)] == ["25000,40000"] * 2
    host.engine.lift_all(VM)
    host.tick()
    assert [host.vifs.rate(host.domid, d) for d in (0, 1)] == [None, None]


@pytest.mark.parametrize(
    ("key", "value", "owner"), [(CAP, 0, "hsem"), (CAP, 5, "nobody"), (RATE, -1, "hsem")]
)
def test_what_is_no_limit_is_refused(host: Host, key: LimitKey, value: int, owner: str) -> None:
    with pytest.raises(LimitError):
        host.want(key, value, owner)
    assert host.engine.status() == []


def test_a_write_that_was_refused_but_done_is_still_ours(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = host.xen.set_sched_params

    def done_but_refused(domid: int, *, weight: int | None = None, cap: int | None = None) -> None:
        real(domid, weight=weight, cap=cap)
        raise HypervisorError("no answer", "ERROR_TIMEDOUT")

    host.want(CAP, 20)
    with monkeypatch.context() as patch:
        patch.setattr(host.xen, "set_sched_params", done_but_refused)
        host.tick()
    host.want(CAP, 30)
    host.xen.refuse.add("set_sched_params")
    host.tick()
    host.tick()
    host.xen.refuse.clear()
    host.engine.lift_all(VM)
    host.tick()
    assert host.cap == 0


def test_weight_memory_and_vcpus_are_set_and_restored(tmp_path: Path) -> None:
    host = Host(tmp_path, weight=300, memory_kb=1 << 18, vcpus=4)
    for key, value in ((WEIGHT, 64), (MEMORY, 1 << 17), (VCPUS, 1)):
        host.want(key, value)
    host.tick()

    def stands() -> tuple[int | None, int, int]:
        domid = host.domid
        return host.xen.sched_params(domid).weight, host.xen.targets_kb[domid], host.xen.vcpus[domid]

    assert stands() == (64, 1 << 17, 1)
    host.migrate()
    host.tick()
    host.engine.lift_all(VM)
    host.tick()
    assert stands() == (300, 1 << 18, 4)


@pytest.mark.parametrize("key", [WEIGHT, MEMORY, VCPUS])
def test_a_limit_that_is_looser_than_what_is_there_changes_nothing(host: Host, key: LimitKey) -> None:
    host.want(key, 60000 if key == WEIGHT else 1 << 30)
    (event,) = host.tick()
    assert (event.state, host.xen.calls) == (LimitState.SET, [])


def test_a_slow_limit_is_pending_until_it_stands(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(host.xen, "set_memory_target", lambda _domid, _kb: None)  # begun, not done
        host.want(MEMORY, 1 << 16)
        (event,) = host.tick()
        assert event.state is LimitState.PENDING
        assert (event.set_to, event.read_back) == ("65536", "262144")
    (event,) = host.tick()
    assert (event.state, host.xen.targets_kb[host.domid]) == (LimitState.SET, 1 << 16)


def test_a_pause_is_counted_once_and_taken_back_once(host: Host) -> None:
    host.want(PAUSE, 1)
    host.tick()
    host.tick()
    host.restart()
    host.tick()
    assert host.xen.pauses[host.domid] == 1
    host.engine.lift_all(VM)
    host.tick()
    assert host.xen.pauses[host.domid] == 0


def test_a_domain_that_the_admin_paused_is_not_paused_again_and_stays_paused(host: Host) -> None:
    host.xen.pause(host.domid)
    host.want(PAUSE, 1)
    host.tick()
    assert host.xen.pauses[host.domid] == 1
    host.engine.lift_all(VM)
    host.tick()
    host.tick()
    assert host.xen.pauses[host.domid] == 1


def test_a_pause_of_the_admins_on_top_of_ours_stays(host: Host) -> None:
    host.want(PAUSE, 1)
    host.tick()
    host.xen.pause(host.domid)
    host.engine.lift_all(VM)
    (event,) = host.tick()
    assert event.state is LimitState.LIFTED
    host.tick()
    host.restart()
    host.tick()
    assert host.xen.pauses[host.domid] == 1


def test_a_domain_that_the_admin_resumed_is_paused_again_while_the_limit_holds(host: Host) -> None:
    host.want(PAUSE, 1)
    host.tick()
    host.xen.unpause(host.domid)
    host.tick()
    assert host.xen.pauses[host.domid] == 1
    host.engine.lift_all(VM)
    host.tick()
    assert host.xen.pauses[host.domid] == 0


def test_what_reaches_a_victim_is_limited_on_all_its_vifs_and_freed_again(host: Host) -> None:
    host.vifs.add(host.domid, 1)
    host.want(VIF_IN, 5_000_000)
    host.tick()
    assert host.vifs.inbound(host.domid) == {0: 5_000_000, 1: 5_000_000}
    host.engine.lift_all(VM)
    host.tick()
    assert host.vifs.inbound(host.domid) == {0: None, 1: None}


def test_a_limit_lifted_while_the_domain_is_suspended_is_gone_when_it_resumes(host: Host) -> None:
    for key, value in ((CAP, 20), (RATE, 1_000_000), (SYN, 100)):
        host.want(key, value)
    host.tick()
    host.xen.change(host.domid, dying=True)  # `xl save -c`
    host.engine.lift_all(VM)
    host.tick()
    host.xen.change(host.domid, dying=False)
    assert {(e.key, e.state) for e in host.tick()} == {(k, LimitState.LIFTED) for k in (CAP, RATE, SYN)}
    assert (host.cap, host.rate, host.vifs.police(host.domid)[0]) == (0, None, {})


def test_a_limit_of_a_kind_that_this_host_lacks_is_told_and_kept(host: Host) -> None:
    host.vbds.disks[host.domid] = {51712: None}
    host.want(VBD_IO, 1 << 20)
    host.tick()
    host.has_vbds = False
    host.restart()
    (event,) = host.tick()
    assert event.state is LimitState.UNSUPPORTED
    host.has_vbds = True
    host.restart()
    host.engine.lift_all(VM)
    host.tick()
    assert host.vbds.disks[host.domid] == {51712: None}


def test_an_admin_who_sets_what_stood_before_ours_is_heard_after_a_restart(tmp_path: Path) -> None:
    host = Host(tmp_path, cap=5)
    host.want(CAP, 10)
    host.tick()
    host.xen.set_sched_params(host.domid, cap=0)
    host.tick()
    host.xen.set_sched_params(host.domid, cap=5)
    host.restart()
    host.tick()
    assert host.cap == 5
    host.engine.lift_all(VM)
    host.tick()
    assert host.cap == 5


def test_a_host_that_cannot_limit_packets_is_not_asked_at_every_turn(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cannot(domid: int) -> dict[int, dict[PacketClass, int]]:
        asked.append(domid)
        raise LimitError("this kernel cannot limit packets", LimitState.UNSUPPORTED)

    with monkeypatch.context() as patch:
        patch.setattr(host.vifs, "police", cannot)
        host.want(SYN, 100)
        for _ in range(10):
            host.tick()
        assert len(asked) == 1
        assert [s.state for s in host.engine.status()] == [LimitState.UNSUPPORTED]
    host.clock.now += 60
    host.tick()
    assert host.engine.held(VM) == {SYN}
