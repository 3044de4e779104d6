# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each collector's parser on what real kernels print, and on garbage; each collector without its file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_files import DISKSTATS, INTERRUPTS, MEMINFO, NETDEV, NETSTAT, PRESSURE, SNMP, SNMP6, STAT, plant

from xenwarden_guest.collectors import (
    Roots,
    Unparsable,
    diskstats,
    gather,
    interfaces,
    interrupts,
    meminfo,
    netdev,
    netstat,
    pressure,
    snmp,
    stat,
    xen,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARSERS: list[tuple[Callable[[bytes], Any], bytes]] = [
    (snmp.parse, SNMP),
    (snmp.parse6, SNMP6),
    (netstat.parse, NETSTAT),
    (netdev.parse, NETDEV),
    (stat.parse, STAT),
    (meminfo.parse, MEMINFO),
    (lambda text: diskstats.parse(text, lambda _name: True), DISKSTATS),
    (pressure.parse, PRESSURE),
    (interrupts.parse, INTERRUPTS),
]


def test_tries_to_send_come_from_snmp_and_only_real_errors_count() -> None:
    assert snmp.parse(SNMP) == {
        "tcp_opens": 273,
        "tcp_accepts": 2,
        "tcp_established": 0,
        "tcp_fails": 9,
        "tcp_retrans": 31,
        "udp_errors": 20 + 300 + 1001 + 4,
    }
    assert snmp.parse6(SNMP6) == 7000 + 80000 + 50 + 6


def test_connections_that_a_full_queue_refused_come_from_netstat() -> None:
    assert netstat.parse(NETSTAT) == 41
    # A newer kernel, with other counters before it, after the older one.
    assert netstat.parse(NETSTAT.replace(b" TW ", b" TW New ").replace(b" 705 ", b" 705 6 ")) == 41


def test_interfaces_counters_are_read_even_without_space_after_the_colon() -> None:
    assert netdev.parse(NETDEV)["eth0"] == (1470275983, 36009, 1837357, 19640, 7)


def test_cpu_time_is_split_into_busy_steal_and_the_rest() -> None:
    found = stat.parse(STAT)
    assert found["cpu_total"] == 1000 + 20 + 300 + 5000 + 400 + 5 + 70
    assert found["cpu_busy"] == 1000 + 20 + 300 + 5
    assert found["cpu_steal"] == 70
    assert (found["cpus"], found["forks"], found["running"]) == (2, 12345, 3)


def test_memory_and_pressure() -> None:
    assert meminfo.parse(MEMINFO) == {
        "mem_total_kb": 2000000,
        "mem_available_kb": 1500000,
        "swap_total_kb": 500000,
        "swap_free_kb": 400000,
    }
    assert pressure.parse(PRESSURE) == 123456


def test_disks_count_once_and_only_xen_disks_are_requests_to_the_hypervisor() -> None:
    found = diskstats.parse(DISKSTATS, lambda name: name in ("xvda", "vda"))
    assert found == {"disk_bytes": (3000 + 20) * 512, "hv_blk_requests": 100 + 50 + 7 + 3}
    assert "hv_blk_requests" not in diskstats.parse(DISKSTATS, lambda name: name == "vda")


def test_event_channels_of_devices_count_timer_and_ipis_do_not(tmp_path: Path) -> None:
    plant(tmp_path)
    assert interrupts.collect(Roots(str(tmp_path))) == {"hv_events": 352 + 41 + 1002 + 5003}


def test_a_device_that_comes_later_counts_and_one_that_goes_does_not(tmp_path: Path) -> None:
    plant(tmp_path)
    roots = Roots(str(tmp_path))
    interrupts.collect(roots)
    row = b" 20:          9          0   xen-dyn-lateeoi    -event     blkif\n"
    (tmp_path / "proc/interrupts").write_bytes(INTERRUPTS.replace(b"NMI:", row + b"NMI:"))
    (tmp_path / "proc/stat").write_bytes(STAT.replace(b" 5003 0", b" 5003 9"))
    stat.collect(roots)
    assert interrupts.collect(roots) == {"hv_events": 352 + 41 + 1002 + 5003 + 9}
    plant(tmp_path)
    stat.collect(roots)
    assert interrupts.collect(roots) == {"hv_events": 352 + 41 + 1002 + 5003}


@pytest.mark.parametrize("damaged", ["stat", "interrupts"])
def test_numbers_of_interrupts_that_do_not_fit_are_refused(tmp_path: Path, damaged: str) -> None:
    plant(tmp_path)
    texts = {"stat": STAT.replace(b" 5003 0 0 0", b""), "interrupts": INTERRUPTS.replace(b" 19:", b" 1x:")}
    (tmp_path / "proc" / damaged).write_bytes(texts[damaged])
    with pytest.raises(Unparsable):
        interrupts.collect(Roots(str(tmp_path)))


def test_a_kernel_without_event_channels_is_a_missing_signal_not_a_zero(tmp_path: Path) -> None:
    plant(tmp_path)
    (tmp_path / "proc/interrupts").write_bytes(b"           CPU0\n  1:  5  IO-APIC   1-edge  i8042\n")
    with pytest.raises(Unparsable):
        interrupts.collect(Roots(str(tmp_path)))


@pytest.mark.parametrize(("parse", "text"), PARSERS)
@given(data=st.data())
def test_garbage_is_refused_or_gives_counters_never_another_error(
    parse: Callable[[bytes], Any], text: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(text)))
    damaged = data.draw(
        st.one_of(
            st.binary(max_size=300),
            st.just(text[:at]),
            st.binary(max_size=12).map(lambda bad: text[:at] + bad + text[at + len(bad) :]),
        )
    )
    try:
        found = parse(damaged)
    except Unparsable:
        return
    numbers = found.values() if isinstance(found, dict) else found if isinstance(found, list) else [found]
    for number in numbers:
        for value in number if isinstance(number, tuple) else (number,):
            assert isinstance(value, int)


def test_each_collector_fails_alone(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "net").mkdir(parents=True)
    (proc / "stat").write_bytes(STAT)
    (proc / "meminfo").write_bytes(b"\xff\x00 nonsense")
    found: dict[str, int] = {}
    collectors = (("stat", stat.collect), ("meminfo", meminfo.collect), ("snmp", snmp.collect))
    assert gather(collectors, Roots(str(tmp_path)), found) == ["meminfo", "snmp"]
    assert found["forks"] == 12345


def test_no_ipv6_is_nothing_missing(tmp_path: Path) -> None:
    (tmp_path / "proc" / "net").mkdir(parents=True)
    (tmp_path / "proc" / "net" / "snmp").write_bytes(SNMP)
    assert snmp.collect(Roots(str(tmp_path)))["tcp_opens"] == 273


def make_interface(root: Path, name: str, *, kind: str = "1", links: tuple[str, ...] = ()) -> None:
    directory = root / "sys" / "class" / "net" / name
    directory.mkdir(parents=True)
    index = len(list(directory.parent.iterdir()))
    for file, text in (("ifindex", str(index)), ("address", f"02:00:00:00:00:{index:02x}"), ("type", kind)):
        (directory / file).write_text(text + "\n")
    for link in links:
        (directory / link).mkdir()


def chosen(root: Path, *, management: bool) -> list[str]:
    roots = Roots(str(root))
    found = interfaces.read(roots, interfaces.names(roots))
    return sorted(interface.name for interface in interfaces.own(found, management=management))


def test_in_dom0_neither_guests_interfaces_nor_bridge_ports_count(tmp_path: Path) -> None:
    make_interface(tmp_path, "lo", kind="772")
    make_interface(tmp_path, "eth0", links=("device", "master"))
    make_interface(tmp_path, "eth1", links=("device",))
    make_interface(tmp_path, "xenbr0", links=("bridge",))
    make_interface(tmp_path, "vif3.0", links=("device", "master"))
    make_interface(tmp_path, "vif4.0", links=("device",))  # routed, not bridged
    make_interface(tmp_path, "vif5.0-emu", links=("master",))
    make_interface(tmp_path, "tap6.0")
    assert chosen(tmp_path, management=True) == ["eth1", "xenbr0"]


def test_in_a_guest_what_leaves_it_counts_once(tmp_path: Path) -> None:
    make_interface(tmp_path, "lo", kind="772")
    make_interface(tmp_path, "eth0", links=("device",))
    make_interface(tmp_path, "eth1", links=("device", "master"))  # in a bond: its traffic still leaves here
    make_interface(tmp_path, "bond0")
    make_interface(tmp_path, "docker0", links=("bridge",))
    make_interface(tmp_path, "veth1234", links=("master",))
    make_interface(tmp_path, "wg0", kind="65534")
    assert chosen(tmp_path, management=False) == ["eth0", "eth1"]


def test_where_we_run(tmp_path: Path) -> None:
    roots = Roots(str(tmp_path))
    assert not xen.on_xen(roots)
    (tmp_path / "sys" / "hypervisor").mkdir(parents=True)
    (tmp_path / "sys" / "hypervisor" / "type").write_text("xen\n")
    assert xen.on_xen(roots)
    assert not xen.is_management(roots)
    (tmp_path / "proc" / "xen").mkdir(parents=True)
    (tmp_path / "proc" / "xen" / "capabilities").write_text("control_d\n")
    assert xen.is_management(roots)
