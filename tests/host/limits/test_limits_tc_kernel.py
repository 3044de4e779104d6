# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packet limits on a real kernel: a veth pair named like a vif, in a network namespace of its own.

Needs root and a kernel with sch_ingress, cls_flower and act_police. The frames are sent from the
guest's end of the pair; a filter of "the admin's", behind ours, counts what comes through.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from xenwarden_channel.fake import FakeStore
from xenwarden_host.errors import LimitError
from xenwarden_host.limits import tc
from xenwarden_host.limits.vif import DomainVifs
from xenwarden_host.records import LimitState, PacketClass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLONE_NEWNET = 0x40000000
DOMID = 7
SYN_FLAG, ACK_FLAG = 0x02, 0x10
CLIENT = 32768  # the first port that Linux gives a client
PPS = 100
SENT = 1000


def sh(line: str) -> str:
    return subprocess.run(line.split(), check=True, capture_output=True, text=True).stdout


def missing() -> str:
    """Return why this machine cannot run these tests, empty where it can."""
    try:
        sh("ip link add xwprobe0 type veth peer name xwprobe1")
        sh("tc qdisc add dev xwprobe0 clsact")
        match = "pref 1 protocol ip flower ip_proto udp"
        sh(f"tc filter add dev xwprobe0 ingress {match} action police pkts_rate 1 pkts_burst 1")
    except (subprocess.CalledProcessError, FileNotFoundError) as problem:
        return f"this kernel has no packet limits: {getattr(problem, 'stderr', problem)}"
    return ""


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Run the test in a network namespace that goes with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as home:  # noqa: PTH123  a descriptor is what is wanted
        if libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip("needs root, to make a network namespace")
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


class World(DomainVifs):
    """The real thing on a store in memory, and what plugs vifs into it."""

    def __init__(self, sys_net: Path) -> None:
        self.store = FakeStore()
        self.sys_net = sys_net
        # /sys shows the network namespace that it was mounted in.
        super().__init__(self.store, sys_net=sys_net)

    def plug(self, devid: int = 0) -> str:
        device = f"vif{DOMID}.{devid}"
        sh(f"ip link add {device} type veth peer name guest{devid}")
        for end in (device, f"guest{devid}"):
            sh(f"ip link set {end} up")
        (self.sys_net / device / "queues" / "tx-0").mkdir(parents=True)
        self.store.write(f"/local/domain/0/backend/vif/{DOMID}/{devid}/state", b"4")
        return device


@pytest.fixture
def vifs(namespace: None, tmp_path: Path) -> World:  # noqa: ARG001
    if reason := missing():
        pytest.skip(reason)
    sh("ip link del xwprobe0")
    return World(tmp_path)


def ipv4(protocol: int, payload: bytes) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, b"\n\0\0\1", b"\n\0\0\2"
    )
    return b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\x00" + header + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    header = struct.pack(
        "!IHBB16s16s", 6 << 28, len(payload), protocol, 64, b"\xfd" + bytes(15), b"\xfd" + bytes(14) + b"\1"
    )
    return b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x86\xdd" + header + payload


def arp(operation: int) -> bytes:
    there = b"\2\0\0\0\0\1\n\0\0\1"
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + there + bytes(6) + b"\n\0\0\2"
    return b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\x06" + body


def tcp(flags: int, to: int = 80) -> bytes:
    return struct.pack("!HHIIBBHHH", 1234, to, 0, 0, 5 << 4, flags, 1024, 0, 0)


def tagged(frame: bytes, *tags: int) -> bytes:
    """Put priority tags of these types on a frame: VLAN 0, which a receiver takes off."""
    return frame[:12] + b"".join(tag.to_bytes(2, "big") + b"\0\0" for tag in tags) + frame[12:]


def fragment(frame: bytes, offset: int, *, more: bool) -> bytes:
    """Say in an IPv4 frame's header that it is a fragment."""
    return frame[:20] + (offset >> 3 | more << 13).to_bytes(2, "big") + frame[22:]


def fragment6(protocol: int, payload: bytes) -> bytes:
    return ipv6(44, struct.pack("!BBHI", protocol, 0, 1, 7) + payload)


def extended(protocol: int, payload: bytes, extensions: list[int]) -> bytes:
    """Put IPv6 extension headers (routing, destination options) before the payload."""
    following = [*extensions[1:], protocol]
    headers = b"".join(bytes([number, 0, 0, 0, 0, 0, 0, 0]) for number in following)
    return ipv6(extensions[0], headers + payload)


FRAMES = {
    "syn": ipv4(6, tcp(SYN_FLAG)),
    "syn6": ipv6(6, tcp(SYN_FLAG)),
    "synack": ipv4(6, tcp(SYN_FLAG | ACK_FLAG)),
    "ack": ipv4(6, tcp(ACK_FLAG)),
    "ack6": ipv6(6, tcp(ACK_FLAG, 32767)),
    "ack to a client": ipv4(6, tcp(ACK_FLAG, CLIENT)),
    "ack6 to a client": ipv6(6, tcp(ACK_FLAG, CLIENT)),
    "udp": ipv4(17, struct.pack("!HHHH", 53, 53, 8, 0)),
    "echo": ipv4(1, struct.pack("!BBHHH", 8, 0, 0, 1, 1)),
    "echo6": ipv6(58, struct.pack("!BBHHH", 128, 0, 0, 1, 1)),
    "reply": ipv4(1, struct.pack("!BBHHH", 0, 0, 0, 1, 1)),
    "arp": arp(1),
    "arp reply": arp(2),
}

VLAN, SERVICE = 0x8100, 0x88A8
UDP_HEADER = struct.pack("!HHHH", 53, 53, 8, 0)
# What gets by a filter that looks for plain frames only, by the class that it belongs to.
EVASIONS = {
    PacketClass.SYN: {
        "tagged": tagged(FRAMES["syn"], VLAN),
        "tagged 802.1ad": tagged(FRAMES["syn6"], SERVICE),
        "tagged twice": tagged(FRAMES["syn"], SERVICE, VLAN),
        "tagged 15 times": tagged(FRAMES["syn6"], *[VLAN] * 15),
        "tagged 16 times": tagged(FRAMES["syn"], *[VLAN] * 16),
        "tagged 20 times": tagged(FRAMES["syn"], *[SERVICE, VLAN] * 10),
        "first fragment": fragment(FRAMES["syn"], 0, more=True),
        "later fragment": fragment(FRAMES["syn"], 1480, more=False),
        "tagged fragment": tagged(fragment(FRAMES["syn"], 0, more=True), VLAN),
        "IPv6 fragment": fragment6(6, tcp(SYN_FLAG)),
        "fragment with options": ipv6(44, struct.pack("!BBHI", 60, 0, 1, 7) + bytes([6] + [0] * 7) + tcp(2)),
        **{f"{n} options": extended(6, tcp(SYN_FLAG), [60] * n) for n in (1, 14, 15, 16, 17, 30)},
        "routing headers": extended(6, tcp(SYN_FLAG), [43] * 20),
        "fragment after options": extended(44, struct.pack("!BBHI", 6, 0, 1, 7) + tcp(2), [60] * 15),
    },
    PacketClass.UDP: {
        "tagged": tagged(FRAMES["udp"], VLAN),
        "tagged 16 times": tagged(FRAMES["udp"], *[VLAN] * 16),
        "first fragment": fragment(FRAMES["udp"], 0, more=True),
        "IPv6 fragment": fragment6(17, UDP_HEADER),
        "16 options": extended(17, UDP_HEADER, [60] * 16),
    },
    PacketClass.ICMP: {
        "tagged": tagged(FRAMES["echo6"], VLAN),
        "tagged 16 times": tagged(FRAMES["echo"], *[VLAN] * 16),
        "first fragment": fragment(FRAMES["echo"], 0, more=True),
        "later fragment": fragment(FRAMES["echo"], 8, more=False),
        "IPv6 fragment": fragment6(58, bytes([128, 0, 0, 0, 0, 1, 0, 1])),
        **{f"{n} options": extended(58, bytes([128] + [0] * 7), [60] * n) for n in (15, 16)},
    },
    PacketClass.TCP: {
        "tagged": tagged(FRAMES["ack"], VLAN),
        "tagged 16 times": tagged(FRAMES["ack"], *[VLAN] * 16),
        "first fragment": fragment(FRAMES["ack"], 0, more=True),
        "later fragment": fragment(FRAMES["ack"], 1480, more=False),
        "IPv6 fragment": fragment6(6, tcp(ACK_FLAG)),
        **{f"{n} options": extended(6, tcp(ACK_FLAG), [60] * n) for n in (1, 15, 16)},
    },
    PacketClass.ARP: {
        "tagged": tagged(FRAMES["arp"], VLAN),
        "tagged twice": tagged(FRAMES["arp reply"], SERVICE, VLAN),
        "tagged 16 times": tagged(FRAMES["arp"], *[VLAN] * 16),
    },
}
# What is of none of the classes, however it is wrapped.
HARMLESS = {
    "tagged acknowledgement": tagged(FRAMES["ack to a client"], VLAN),
    "tagged twice": tagged(ipv4(6, tcp(SYN_FLAG | ACK_FLAG, CLIENT)), SERVICE, VLAN),
    "reply": FRAMES["reply"],
    "acknowledgement behind options": extended(6, tcp(ACK_FLAG, CLIENT), [60, 43]),
}


def count_all(device: str) -> None:
    """Count what reaches the admin's filter behind ours."""
    if "clsact" not in sh(f"tc qdisc show dev {device}"):
        sh(f"tc qdisc add dev {device} clsact")
    sh(f"tc filter add dev {device} ingress pref 100 protocol all matchall action ok")


def counted(device: str) -> int:
    shown = json.loads(sh(f"tc -s -j filter show dev {device} ingress pref 100"))
    return int(shown[1]["options"]["actions"][0]["stats"]["packets"])


def flood(frame: bytes, devid: int = 0) -> tuple[int, float]:
    """Send as fast as it goes; return how many came through and how long it took."""
    device = f"vif{DOMID}.{devid}"
    before, start = counted(device), time.monotonic()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((f"guest{devid}", 0))
        for _ in range(SENT):
            sender.send(frame)
    return counted(device) - before, time.monotonic() - start


@pytest.mark.parametrize(
    ("packet_class", "limited"),
    [
        (PacketClass.SYN, {"syn", "syn6"}),
        (PacketClass.UDP, {"udp"}),
        (PacketClass.ICMP, {"echo", "echo6"}),
        (PacketClass.TCP, {"syn", "syn6", "synack", "ack", "ack6"}),
        (PacketClass.ARP, {"arp", "arp reply"}),
    ],
)
def test_requests_of_the_class_are_limited_and_nothing_else(
    vifs: World, packet_class: PacketClass, limited: set[str]
) -> None:
    device = vifs.plug()
    vifs.set_police(DOMID, {0: {packet_class: PPS}})
    assert vifs.police(DOMID)[0] == {packet_class: PPS}
    count_all(device)
    for name, frame in FRAMES.items():
        passed, seconds = flood(frame)
        if name in limited:
            assert passed <= tc.burst(PPS) + PPS * seconds + 1, name
        else:
            # The kernel's own chatter on the pair (router solicitations) counts as well.
            assert passed >= SENT, name


@pytest.mark.parametrize("packet_class", PacketClass)
def test_no_wrapping_gets_by_a_limit_and_nothing_else_is_held_for_it(
    vifs: World, packet_class: PacketClass
) -> None:
    device = vifs.plug()
    vifs.set_police(DOMID, {0: {packet_class: PPS}})
    count_all(device)
    through = {}
    for name, frame in EVASIONS[packet_class].items():
        passed, seconds = flood(frame)
        if passed > tc.burst(PPS) + PPS * seconds + 1:
            through[name] = passed
    assert through == {}
    assert {name: flood(frame)[0] >= SENT for name, frame in HARMLESS.items()} == dict.fromkeys(
        HARMLESS, True
    )


def test_of_a_limit_of_none_nothing_passes_and_it_reads_back_as_such(vifs: World) -> None:
    device = vifs.plug()
    vifs.set_police(DOMID, {0: {PacketClass.ARP: 0, PacketClass.UDP: 1_000_000}})
    assert vifs.police(DOMID)[0] == {PacketClass.ARP: 0, PacketClass.UDP: 1_000_000}
    count_all(device)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("guest0", 0))
        for _ in range(3):  # as gently as one likes
            sender.send(FRAMES["arp"])
            time.sleep(0.5)
    assert flood(FRAMES["udp"])[0] >= SENT
    assert vifs.police_drops() == {DOMID: 3}


def test_the_limit_is_the_whole_vms_over_its_vifs_and_both_families(vifs: World) -> None:
    start = time.monotonic()
    for devid in (0, 1):
        device = vifs.plug(devid)
        vifs.set_police(DOMID, {devid: {PacketClass.SYN: PPS}})
        count_all(device)
    passed = sum(flood(FRAMES[name], devid)[0] for name in ("syn", "syn6") for devid in (0, 1))
    assert 0 < passed <= tc.burst(PPS) + PPS * (time.monotonic() - start) + 20  # chatter


def test_a_changed_value_is_in_force_at_once(vifs: World) -> None:
    device = vifs.plug()
    vifs.set_police(DOMID, {0: {PacketClass.UDP: 10}})
    vifs.set_police(DOMID, {0: {PacketClass.UDP: 1_000_000, PacketClass.ICMP: 5}})
    assert vifs.police(DOMID)[0] == {PacketClass.UDP: 1_000_000, PacketClass.ICMP: 5}
    count_all(device)
    assert flood(FRAMES["udp"])[0] >= SENT


def test_what_is_lifted_leaves_nothing_behind(vifs: World) -> None:
    device = vifs.plug()
    qdiscs = sh(f"tc qdisc show dev {device}")
    vifs.set_police(DOMID, {0: dict.fromkeys(PacketClass, PPS)})
    vifs.set_police(DOMID, {0: {PacketClass.UDP: PPS}})
    vifs.set_police(DOMID, {0: {}})
    assert sh(f"tc qdisc show dev {device}") == qdiscs
    assert sh(f"tc filter show dev {device} ingress") == ""
    assert json.loads(sh("tc -j actions ls action police")) == []


@pytest.mark.parametrize("qdisc", ["clsact", "ingress"])
def test_filters_and_qdisc_of_the_admin_survive(vifs: World, qdisc: str) -> None:
    device = vifs.plug()
    sh(f"tc qdisc add dev {device} {qdisc}")
    sh(f"tc filter add dev {device} ingress pref 50 protocol ip flower ip_proto tcp dst_port 22 action drop")
    before = [sh(f"tc filter show dev {device} ingress"), sh(f"tc qdisc show dev {device}")]
    vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
    assert vifs.police(DOMID)[0] == {PacketClass.SYN: PPS}
    vifs.set_police(DOMID, {0: {}})
    assert [sh(f"tc filter show dev {device} ingress"), sh(f"tc qdisc show dev {device}")] == before


def test_an_empty_qdisc_of_the_admin_survives_a_restart_of_ours(vifs: World) -> None:
    device = vifs.plug()
    sh(f"tc qdisc add dev {device} clsact")
    vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
    vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS, PacketClass.UDP: PPS}})
    vifs.set_police(DOMID, {0: {}})
    assert "clsact" in sh(f"tc qdisc show dev {device}")


def test_a_filter_that_the_admin_put_on_our_qdisc_keeps_it(vifs: World) -> None:
    device = vifs.plug()
    vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
    sh(f"tc filter add dev {device} egress pref 50 protocol ip flower ip_proto tcp dst_port 22 action drop")
    vifs.set_police(DOMID, {0: {}})
    assert "dst_port 22" in sh(f"tc filter show dev {device} egress")


def test_somebody_elses_filter_at_our_preference_is_named_and_left(vifs: World) -> None:
    device = vifs.plug()
    sh(f"tc qdisc add dev {device} clsact")
    sh(f"tc filter add dev {device} ingress pref 41 protocol ip flower ip_proto tcp dst_port 22 action drop")
    before = sh(f"tc filter show dev {device} ingress")
    with pytest.raises(LimitError) as refused:
        vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
    assert refused.value.state == LimitState.FAILED
    assert sh(f"tc filter show dev {device} ingress") == before


def test_a_vif_that_goes_takes_its_limits_along_and_is_a_named_state(vifs: World) -> None:
    device = vifs.plug()
    vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
    sh(f"ip link del {device}")
    assert json.loads(sh("tc -j actions ls action police")) == []
    assert vifs.police(DOMID) == {}
    with pytest.raises(LimitError) as gone:
        vifs.set_police(DOMID, {0: {PacketClass.SYN: 1}})
    assert gone.value.state == LimitState.NO_TARGET


def test_half_set_limits_do_not_count_and_are_completed(vifs: World) -> None:
    device = vifs.plug()
    vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
    for number in (0, 5):
        handle = ours(device)[number]["options"]["handle"]
        sh(f"tc filter del dev {device} ingress pref 41 protocol all handle {handle:#x} flower")
        assert vifs.police(DOMID)[0] == {}
        vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
        assert vifs.police(DOMID)[0] == {PacketClass.SYN: PPS}


def test_what_others_have_on_a_vif_is_seen_on_any_kernel(tmp_path: Path) -> None:
    world = World(tmp_path)
    device = world.plug()
    assert tc.read(device).qdisc == ""
    sh(f"tc qdisc add dev {device} clsact")
    assert (tc.read(device).qdisc, tc.read("guest0").qdisc) == ("clsact", "")
    try:
        sh(f"tc filter add dev {device} ingress pref 41 protocol ip u32 match u32 0 0 flowid 1:1")
    except subprocess.CalledProcessError as problem:
        pytest.skip(f"this kernel has no cls_u32: {problem.stderr}")
    found = tc.read(device)
    assert (found.ours, found.taken) == ((), (41,))
    assert world.police(DOMID) == {0: {}}
    with pytest.raises(LimitError, match="somebody else"):
        world.set_police(DOMID, {0: {PacketClass.SYN: PPS}})


def test_a_kernel_without_packet_limits_says_so_in_its_own_words(tmp_path: Path) -> None:
    if not missing():
        pytest.skip("this kernel has them")
    world = World(tmp_path)
    world.plug()
    with pytest.raises(LimitError, match=r"this kernel cannot limit packets: .*TC") as refused:
        world.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
    assert refused.value.state == LimitState.UNSUPPORTED


def ours(device: str) -> list[dict[str, Any]]:
    return [f for f in json.loads(sh(f"tc -j filter show dev {device} ingress")) if "options" in f]


def test_what_reaches_the_guest_is_limited_beside_packet_limits_and_leaves_nothing(vifs: World) -> None:
    device = vifs.plug()
    qdiscs = sh(f"tc qdisc show dev {device}")
    vifs.set_police(DOMID, {0: {PacketClass.SYN: PPS}})
    vifs.set_inbound(DOMID, {0: 8_000_000})
    vifs.set_inbound(DOMID, {0: 4_000_000})
    assert (vifs.inbound(DOMID), vifs.police(DOMID)) == ({0: 4_000_000}, {0: {PacketClass.SYN: PPS}})
    frame = FRAMES["udp"] + bytes(1400)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        before, start = received(), time.monotonic()
        for _ in range(SENT):
            with contextlib.suppress(OSError):  # a packet dropped on its way out is told to the sender
                sender.send(frame)
        passed, seconds = received() - before, time.monotonic() - start
    size = len(frame)
    allowed = (128 << 10) + 4_000_000 / 8 * seconds
    assert 0 < passed * size <= allowed + 20 * size  # the kernel's own chatter
    vifs.set_police(DOMID, {0: {}})
    assert vifs.inbound(DOMID) == {0: 4_000_000}
    vifs.set_inbound(DOMID, {0: None})
    assert sh(f"tc qdisc show dev {device}") == qdiscs
    assert json.loads(sh("tc -j actions ls action police")) == []


def received() -> int:
    (shown,) = json.loads(sh("ip -s -j link show guest0"))
    return int(shown["stats64"]["rx"]["packets"])
