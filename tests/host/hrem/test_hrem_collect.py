# SPDX-License-Identifier: LGPL-2.1-or-later
"""dom0's own counters become the right signals of the right VM, and a restart of a counter is a gap."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_host.hrem import backend, vbd, vif
from xenwarden_host.hrem.hrem import Hrem
from xenwarden_host.hrem.rates import rates
from xenwarden_host.records import DomainInfo, VmType


class Sysfs:
    """A tree as Linux shows it in dom0."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, path: str, **numbers: int) -> None:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, value in numbers.items():
            (directory / name).write_text(f"{value}\n")

    def vif(self, name: str, **numbers: int) -> None:
        zero = dict.fromkeys(
            ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped"), 0
        )
        self.put(f"class/net/{name}/statistics", **(zero | numbers))

    def backend(self, name: str, **numbers: int) -> None:
        self.put(f"bus/xen-backend/devices/{name}/xenbus", **({"events": 0, "spurious_events": 0} | numbers))

    def vbd(self, name: str, **numbers: int) -> None:
        zero = dict.fromkeys(("oo_req", "rd_req", "wr_req", "f_req", "ds_req"), 0)
        self.put(f"bus/xen-backend/devices/{name}/statistics", **(zero | numbers))

    def remove(self, path: str) -> None:
        shutil.rmtree(self.root / path)


@pytest.fixture
def sys_root(tmp_path: Path) -> Sysfs:
    tree = Sysfs(tmp_path)
    tree.put("class/net/lo/statistics", rx_packets=1)
    tree.put("class/net/xenbr0/statistics", rx_packets=99999)
    return tree


def domain(domid: int, cpu_time_s: float = 0.0, vcpus: int = 1, uuid: str | None = None) -> DomainInfo:
    return DomainInfo(
        domid=domid, uuid=uuid or f"u{domid}", name=f"vm{domid}", vm_type=VmType.PV, cpu_time_s=cpu_time_s,
        memory_kb=1, max_memory_kb=1, vcpus_online=vcpus, paused=False, dying=False,
    )  # fmt: skip


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def rates_of(collected: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        uuid: {name: value for name, value in signals.items() if not name.startswith("domain_")}
        for uuid, signals in collected.items()
    }


def test_what_the_vif_receives_is_what_the_guest_sends(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    sys_root.vif("vif3.0", rx_packets=1000, rx_bytes=60_000, tx_packets=10, tx_bytes=100, tx_dropped=5)
    assert rates_of(hrem.collect([domain(3)], 10.0)) == {"u3": {}}
    sys_root.vif(
        "vif3.0", rx_packets=3000, rx_bytes=180_000, rx_dropped=4, tx_packets=30, tx_bytes=1100, tx_dropped=7
    )
    signals = hrem.collect([domain(3)], 12.0)["u3"]
    assert signals["vif_tx_pps"] == 1000
    assert signals["vif_tx_bps"] == 8 * 60_000
    assert signals["vif_rx_pps"] == 10
    assert signals["vif_rx_bps"] == 8 * 500
    assert signals["vif_rx_drop_pps"] == 1
    assert signals["vif_tx_drop_pps"] == 2


def test_vifs_of_one_vm_are_summed_and_vms_kept_apart(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    domains = [domain(1), domain(11)]
    for step in (0, 1):
        sys_root.vif("vif1.0", rx_packets=100 * step)
        sys_root.vif("vif1.1", rx_packets=50 * step)
        sys_root.vif("vif1.0-emu", rx_packets=7 * step)
        sys_root.vif("vif11.0", rx_packets=1000 * step)
        found = hrem.collect(domains, float(step))
    assert found["u1"]["vif_tx_pps"] == 157
    assert found["u11"]["vif_tx_pps"] == 1000


def test_cpu_time_is_of_what_the_vcpus_could_take(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    hrem.collect([domain(1, 100.0, vcpus=4), domain(2, 5.0)], 0.0)
    found = hrem.collect([domain(1, 108.0, vcpus=4), domain(2, 5.0)], 4.0)
    assert found["u1"]["vcpu_pct"] == 50
    assert found["u2"]["vcpu_pct"] == 0


def test_events_and_disk_requests_are_counted(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    for step in (0, 1):
        sys_root.vif("vif5.0")
        sys_root.backend("vif-5-0", events=500 * step, spurious_events=20 * step)
        sys_root.backend("vbd-5-51712", events=100 * step)
        sys_root.backend("vkbd-5-0", events=9999 * step)
        sys_root.vbd("vbd-5-51712", rd_req=30 * step, wr_req=20 * step, f_req=2 * step, oo_req=77 * step)
        found = hrem.collect([domain(5)], float(step))["u5"]
    assert found["event_ps"] == 600
    assert found["spurious_event_ps"] == 20
    assert found["vbd_rps"] == 52
    assert found["vbd_full_ps"] == 77
    devices = hrem.devices("u5")
    assert devices["vif-5-0"] == {"event_ps": 500, "spurious_event_ps": 20}
    assert devices["vbd-5-51712"] == {
        "event_ps": 100,
        "spurious_event_ps": 0,
        "vbd_rps": 52,
        "vbd_full_ps": 77,
    }
    assert devices["vif5.0"]["vif_tx_pps"] == 0


def test_a_counter_that_restarts_has_counted_what_it_shows(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    sys_root.vif("vif3.0", rx_packets=5000, tx_packets=100)
    hrem.collect([domain(3)], 0.0)
    sys_root.vif("vif3.0", rx_packets=20, tx_packets=200)  # the frontend reconnected
    found = hrem.collect([domain(3)], 1.0)["u3"]
    assert found["vif_tx_pps"] == 20
    assert found["vif_rx_pps"] == 100
    sys_root.vif("vif3.0", rx_packets=50, tx_packets=200)
    assert hrem.collect([domain(3)], 2.0)["u3"]["vif_tx_pps"] == 30


def test_a_device_that_comes_and_goes_hides_no_other(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    sys_root.vif("vif3.0", rx_packets=5000)
    hrem.collect([domain(3)], 0.0)
    sys_root.vif("vif3.1", rx_packets=90000)  # since when is not known
    sys_root.vif("vif3.0", rx_packets=5007)
    assert hrem.collect([domain(3)], 1.0)["u3"]["vif_tx_pps"] == 7
    assert hrem.collect([domain(3)], 2.0)["u3"]["vif_tx_pps"] == 0
    sys_root.remove("class/net/vif3.1")
    sys_root.vif("vif3.0", rx_packets=5009)
    assert hrem.collect([domain(3)], 3.0)["u3"]["vif_tx_pps"] == 2
    sys_root.remove("class/net/vif3.0")
    hrem.collect([domain(3)], 4.0)
    assert "vif_tx_pps" not in hrem.collect([domain(3)], 5.0)["u3"]


def test_a_device_that_comes_back_under_its_name_is_read_anew(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    sys_root.vif("vif3.0", rx_packets=100)
    hrem.collect([domain(3)], 0.0)
    sys_root.remove("class/net/vif3.0")
    assert "vif_tx_pps" not in hrem.collect([domain(3)], 1.0)["u3"]
    sys_root.vif("vif3.0", rx_packets=5)
    hrem.collect([domain(3)], 2.0)
    sys_root.vif("vif3.0", rx_packets=12)
    assert hrem.collect([domain(3)], 3.0)["u3"]["vif_tx_pps"] == 7


def test_no_descriptor_is_left_of_devices_that_are_gone(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    hrem.collect([], 0.0)
    before = open_files()
    for number in range(1, 40):
        sys_root.vif(f"vif{number}.0", rx_packets=100)
        hrem.collect([domain(number)], float(number))
        sys_root.remove(f"class/net/vif{number}.0")
    hrem.collect([], 50.0)
    assert open_files() == before
    sys_root.vif("vif3.0")
    hrem.collect([domain(3)], 51.0)
    hrem.close()
    assert open_files() == before


def test_more_files_than_may_be_open_are_read_all_the_same(
    sys_root: Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (16, 16))
    hrem = Hrem(sys_root.root)
    domains = [domain(number) for number in range(1, 11)]
    for step in (0, 1):
        for number in range(1, 11):
            sys_root.vif(f"vif{number}.0", rx_packets=number * step)
        found = hrem.collect(domains, float(step))
    assert [found[f"u{number}"]["vif_tx_pps"] for number in range(1, 11)] == list(range(1, 11))


def test_age_and_restarts_of_a_vm(tmp_path: Path) -> None:
    hrem = Hrem(tmp_path)

    def look(now_s: float, *domids: int) -> tuple[float, float]:
        found = hrem.collect([domain(domid, uuid="u") for domid in domids], now_s).get("u", {})
        return found.get("domain_age_s", -1.0), found.get("domain_restarts", -1.0)

    assert look(0.0, 3) == (0, 0)
    assert look(10.0, 3) == (10, 0)
    assert look(11.0, 4) == (0, 0)  # migrated on this host: never away
    assert look(12.0) == (-1, -1)
    assert look(13.0, 5) == (0, 1)
    assert look(20.0) == (-1, -1)
    assert look(21.0, 6) == (0, 2)
    assert look(30.0, 6) == (9, 2)
    assert look(13.0 + 3601, 6)[1] == 1  # an hour later the first counts no more


def test_a_new_domid_begins_anew_though_the_uuid_stays(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    sys_root.vif("vif3.0", rx_packets=10)
    hrem.collect([domain(3, 100.0, uuid="u")], 0.0)
    sys_root.vif("vif4.0", rx_packets=9000)
    assert rates_of(hrem.collect([domain(4, 101.0, uuid="u")], 1.0)) == {"u": {}}


def test_police_drops_are_a_rate_where_someone_counts_them(sys_root: Sysfs) -> None:
    hrem = Hrem(sys_root.root)
    assert "vif_police_drop_pps" not in hrem.collect([domain(3)], 0.0)["u3"]
    assert "vif_police_drop_pps" not in hrem.collect([domain(3)], 1.0, {})["u3"]
    assert hrem.collect([domain(3)], 2.0, {"u3": 400})["u3"]["vif_police_drop_pps"] == 400
    assert hrem.collect([domain(3)], 4.0, {"u3": 600})["u3"]["vif_police_drop_pps"] == 100
    assert "vif_police_drop_pps" not in hrem.collect([domain(3)], 5.0, {"u3": 3})["u3"]


def test_without_sysfs_there_is_cpu_all_the_same(tmp_path: Path) -> None:
    hrem = Hrem(tmp_path / "nothing")
    hrem.collect([domain(1, 0.0)], 0.0)
    assert rates_of(hrem.collect([domain(1, 0.5)], 1.0)) == {"u1": {"vcpu_pct": 50}}


@pytest.mark.parametrize("parse", [vif.parse_names, vbd.parse_names, backend.parse_names])
def test_names_of_other_devices_are_passed_over(parse: object) -> None:
    assert callable(parse)
    names = [
        "lo",
        "vifx.0",
        "vif1",
        "vif1.0.2",
        "xvif1.0",
        "vbd-1",
        "vif-1-0-2",
        "vbd--1-0",
        "vif99999999.0",
        "",
    ]
    assert parse(names) == {}


@given(st.text(max_size=20))
def test_any_name_is_parsed_or_passed_over(name: str) -> None:
    for module in (vif, vbd, backend):
        for domid, found in module.parse_names([name]).items():
            assert found == [name]
            assert str(domid) in name


counters = st.dictionaries(st.sampled_from(["d0", "d1"]), st.dictionaries(
    st.sampled_from(["a", "b"]), st.integers(0, 2**64), max_size=2), max_size=2)  # fmt: skip


@given(counters, counters)
def test_rates_are_never_negative_and_never_more_than_was_counted(
    before: dict[str, dict[str, int]], now: dict[str, dict[str, int]]
) -> None:
    for name, rate in rates(before, now, 2.0).items():
        known = [device for device in now if name in now[device] and name in before.get(device, {})]
        assert known
        assert 0 <= rate <= sum(now[device][name] for device in known) / 2.0
