# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run inside a fresh network and mount namespace by test_guest_kernel.py; prints one JSON object."""

from __future__ import annotations

import base64
import json
import random
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import frames

from xenwarden_channel.messages import Message, parse
from xenwarden_guest.collectors import Roots, interfaces
from xenwarden_guest.vsem import bpf
from xenwarden_guest.vsem.headers import Networks
from xenwarden_guest.vsem.looks import Looks
from xenwarden_guest.vsem.monitor import Monitor
from xenwarden_guest.vsem.plan import Plan
from xenwarden_guest.vsem.segments import Segments
from xenwarden_guest.vsem.sockets import ClassCounter, HeaderSampler

MAC_HERE, MAC_THERE = "02:00:00:00:00:01", "02:00:00:00:00:02"
MAC_BRIDGE = "02:00:00:00:00:aa"


def ip(*words: str) -> None:
    """Run the command."""
    subprocess.run(["ip", *words], check=True)


def raw(device: str) -> socket.socket:
    """Return a socket that sends whole frames."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((device, 0))
    return sock


def interface(name: str, *, bridge: bool = False) -> interfaces.Interface:
    """Return the interface as the agent finds it."""
    found = interfaces.read(Roots(), [name])[0]
    return interfaces.Interface(
        name, found.index, found.address, ethernet=True, enslaved=False, bridge=bridge, device=False
    )


def readable(sampler: HeaderSampler) -> bool:
    poller = select.poll()
    poller.register(sampler, select.POLLIN)
    return bool(poller.poll(0))


def each_frame() -> dict[str, object]:
    """Send and receive every frame; return classes counted and all bytes that reached user space."""
    here = interface("here")
    counter = ClassCounter(here)
    sampler = HeaderSampler(here, Plan(1), Plan(2))
    sockets = {"sent": raw("here"), "received": raw("there")}
    out: dict[str, object] = {}
    for name, (frame, _kind) in frames.FRAMES.items():
        for way in ("sent", "received"):
            counter.read()
            was_readable = readable(sampler)
            sockets[way].send(frame)
            is_readable = readable(sampler)
            classes = dict(zip(bpf.CLASSES, counter.read(), strict=True))
            headers = [header for sent, header in sampler.read() if sent == (way == "sent")]
            ring = bytes(sampler._ring or b"")
            out[f"{name}/{way}"] = {
                "classes": {
                    key: count
                    for key, count in classes.items()
                    if count and key not in ("none", "tx_other", "rx_other")
                },
                "headers": [base64.b64encode(header).decode() for header in headers],
                "readable": [was_readable, is_readable],
                "leaked": frames.PAYLOAD[:8] in ring,
            }
    return out


def flood(distinct: int, seed: int) -> dict[str, object]:
    """Send a flood among bulk for two reports; return truth and estimates of the second.

    In the first the sampler finds its rate.
    """
    source = random.Random(seed)  # noqa: S311  repeatable
    monitor = Monitor(Roots(), management=False)
    monitor.find_interfaces()
    monitor.look(0.0)
    out = raw("here")
    bulk = frames.ethernet(frames.V4, frames.ipv4(6, frames.tcp(frames.ACK)))
    for _report in range(2):
        truth: set[bytes] = set()
        sent = 0
        for _look in range(5):
            for _ in range(600):
                address = source.randrange(distinct).to_bytes(3, "big")
                truth.add(address)
                syn = frames.ipv4(6, frames.tcp(frames.SYN), dest=b"\x0a" + address)
                out.send(frames.ethernet(frames.V4, syn))
                out.send(bulk)
                sent += 2
            monitor.glance(1.0, 1)
        signals, tx, _rx, _failed = monitor.finish(5.0)
    monitor.close()
    return {
        "syns": 3000 / 5,
        "syns_counted": signals["tx_syn_pps"],
        "sent": sent / 5,
        "counted": signals["tx_pps"],
        "dests": len(truth) + 1,
        "dests_estimated": signals["tx_dests"],
        "top_share": signals["tx_top_share"],
        "top": tx.top(signals["tx_pps"], signals["tx_syn_pps"])[0].split(",")[0],
    }


def few_packets() -> dict[str, object]:
    """Send packets in twos, with a glance for five after each; return whether it looked, and the count."""
    monitor = Monitor(Roots(), management=False)
    monitor.find_interfaces()
    monitor.look(0.0)
    monitor.finish(1.0)
    out = raw("here")
    frame, _kind = frames.FRAMES["tcp4 syn"]
    looked = []
    for _ in range(4):
        out.send(frame)
        out.send(frame)
        looked.append(monitor.glance(1.0, 5))
    signals = monitor.finish(1.0)[0]
    monitor.look(1.0)
    quiet = monitor.finish(1.0)[0]
    monitor.close()
    return {"looked": looked, "syns": signals["tx_syn_pps"], "quiet": quiet}


def down_and_up() -> dict[str, object]:
    """Take the interface down and up again; return what the monitor says each time."""
    monitor = Monitor(Roots(), management=False)
    monitor.find_interfaces()
    monitor.look(0.0)
    frame, _kind = frames.FRAMES["tcp4 syn"]
    out: dict[str, object] = {}
    ip("link", "set", "here", "down")
    monitor.look(1.0)
    out["failed_while_down"] = monitor.finish(1.0)[3]
    ip("link", "set", "here", "up")
    monitor.find_interfaces()
    monitor.look(1.0)
    monitor.finish(1.0)
    raw("here").send(frame)
    monitor.look(1.0)
    signals, _dests, _sources, failed = monitor.finish(1.0)
    out["syns_after"] = signals.get("tx_syn_pps")
    out["failed_after"] = failed
    return out


def make_bridge() -> None:
    """Be dom0 with a bridge between two guests, whose ends are `far1` and `far2`."""
    # No neighbour discovery of the kernel's between our frames, and no group that a snooping bridge joins.
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    ip("link", "add", "xenbr0", "address", MAC_BRIDGE, "type", "bridge", "mcast_snooping", "0")
    for guest in ("vif1.0", "vif2.0"):
        ip("link", "add", guest, "type", "veth", "peer", "name", f"far{guest[3]}")
        ip("link", "set", guest, "master", "xenbr0", "arp", "off", "up")
        ip("link", "set", f"far{guest[3]}", "arp", "off", "up")
    ip("link", "set", "xenbr0", "arp", "off", "up")
    ip("link", "set", "here", "down")
    for guest in ("vif1.0", "vif2.0"):
        while Path(f"/sys/class/net/{guest}/brport/state").read_text() != "3\n":  # forwarding
            time.sleep(0.01)


def looks() -> dict[str, object]:
    """Look at the two guests by order; return what is seen of each, and what is let go by the next order."""
    make_bridge()
    first, second = (bytes([2, 0, 0, 0, 0, number]) for number in (0x51, 0x52))
    syn = frames.ipv4(6, frames.tcp(frames.SYN))

    def frame(source: bytes, dest: bytes) -> bytes:
        return frames.ethernet(frames.V4, syn, source=source, dest=dest)

    guests = raw("far1"), raw("far2")
    guests[0].send(frame(first, b"\xff" * 6))  # the bridge learns who is where
    guests[1].send(frame(second, b"\xff" * 6))
    found = Looks(Roots())
    found.obey(Message("look", 1, {"domids": "1,2,3", "for": "60"}), Networks(), 10.0)
    for _ in range(10):
        guests[0].send(frame(first, second))
        guests[1].send(frame(second, first))
        guests[0].send(frame(first, b"\xff" * 6))
    out: dict[str, object] = {}
    for node, value in found.finish(2, 11.0):
        message = parse(value, "headers")
        out[node.rpartition("/")[2]] = {**message.numbers(), "missing": message.fields["missing"]}
    out["let go"] = found.obey(Message("look", 3, {"domids": "1", "for": "60"}), Networks(), 12.0)
    out["after"] = [node for node, _value in found.finish(4, 12.0)]
    found.close()
    return out


def bridged() -> dict[str, object]:
    """Return the signals of frames that the bridge forwards and of dom0's own."""
    make_bridge()
    first, second = (bytes([2, 0, 0, 0, 0, number]) for number in (0x51, 0x52))
    own = bytes.fromhex(MAC_BRIDGE.replace(":", ""))
    syn = frames.ipv4(6, frames.tcp(frames.SYN))

    def frame(source: bytes, dest: bytes) -> bytes:
        return frames.ethernet(frames.V4, syn, source=source, dest=dest)

    # The far ends are interfaces of this namespace too, and would be dom0's own: only the bridge is watched.
    monitor = Monitor(Roots(), management=True)
    monitor.find_interfaces()
    chosen = sorted(watched.interface.name for watched in monitor._watched.values())
    for index, watched in list(monitor._watched.items()):
        if watched.interface.name != "xenbr0":
            del monitor._watched[index]
    guests = raw("far1"), raw("far2")
    guests[0].send(frame(first, b"\xff" * 6))  # the bridge learns who is where
    guests[1].send(frame(second, b"\xff" * 6))
    monitor.look(0.0)
    monitor.finish(0.0)
    out: dict[str, object] = {"chosen": chosen}
    for _ in range(10):
        guests[0].send(frame(first, second))
        guests[1].send(frame(second, first))
        guests[0].send(frame(first, b"\xff" * 6))
    monitor.look(1.0)
    out["forwarded"] = monitor.finish(1.0)[0]
    for _ in range(3):
        guests[0].send(frame(first, own))
    for _ in range(7):
        raw("xenbr0").send(frame(own, second))
    monitor.look(1.0)
    out["own"] = monitor.finish(1.0)[0]
    return out


def heard() -> dict[str, object]:
    """Have the first guest claim what is the second's, and what is dom0's; return what is told."""
    make_bridge()
    ip("address", "add", "10.0.0.1/24", "dev", "xenbr0")
    first, second = (bytes([2, 0, 0, 0, 0, number]) for number in (0x51, 0x52))
    dom0, own, other = (bytes([10, 0, 0, number]) for number in (1, 52, 53))
    guests = raw("far1"), raw("far2")
    ears = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0x0300)
    ears.bind(("far2", 0x0806))
    dom0s = raw("xenbr0")

    def packet(operation: int, mac: bytes, sender: bytes, target: bytes, *tags: int) -> bytes:
        body = b"\0\1\x08\0\6\4" + operation.to_bytes(2, "big") + mac + sender + bytes(6) + target
        return frames.ethernet(0x0806, body, *tags, source=mac)

    segments = Segments(Roots())
    out: dict[str, object] = {"failed": segments.look(1, 0.0) or segments.failed}
    guests[1].send(packet(1, second, own, other))  # in ordinary life
    out["life"] = segments.look(2, 1.0) is not None
    told = []
    for second_s in range(2, 6):
        dom0s.send(packet(1, bytes.fromhex(MAC_BRIDGE.replace(":", "")), dom0, own))
        guests[0].send(packet(2, first, own, own))
        guests[0].send(packet(2, first, dom0, own))
        guests[0].send(packet(2, first, other, own, 0x8100))  # of another network
        guests[1].send(packet(2, second, own, dom0))  # as it is asked
        while True:
            try:
                frame = ears.recv(2000)
            except BlockingIOError:
                break
            if frame[20:22] == b"\0\1" and frame[28:32] == bytes(4):
                guests[1].send(packet(2, second, own, bytes(4)))
                out["asked"] = frame[38:42] == own
        value = segments.look(second_s + 1, float(second_s))
        told.append(None if value is None else dict(parse(value, "arp").fields))
    out["told"] = told
    out["failed"] = segments.failed
    waits = [segments.wait_s(6.0, 5.0)]
    out["over"] = segments.look(9, 60.0) is not None
    out["wait"] = [*waits, segments.wait_s(60.0, 5.0)]
    segments.close()
    return out


def main() -> None:
    """Print the result of the check that is named."""
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    ip(
        "link",
        "add",
        "here",
        "address",
        MAC_HERE,
        "type",
        "veth",
        "peer",
        "name",
        "there",
        "address",
        MAC_THERE,
    )
    result: object
    if sys.argv[1] == "frames":
        ip("link", "set", "here", "arp", "off", "up")
        ip("link", "set", "there", "arp", "off", "up")
        time.sleep(0.05)
        result = each_frame()
    else:
        # The far end goes to a namespace of its own, so that it is no interface of "the VM".
        with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1) as far:
            assert far.stdout is not None
            far.stdout.readline()
            ip("link", "set", "there", "netns", str(far.pid))
            subprocess.run(
                ["nsenter", "-t", str(far.pid), "-n", "ip", "link", "set", "there", "up"], check=True
            )
            ip("link", "set", "here", "arp", "off", "up")
            if sys.argv[1] == "looks":
                result = looks()
            elif sys.argv[1] == "arp":
                result = heard()
            elif sys.argv[1] == "bridge":
                result = bridged()
            elif sys.argv[1] == "flood":
                result = [flood(int(sys.argv[2]), seed) for seed in range(int(sys.argv[3]))]
            elif sys.argv[1] == "few":
                result = few_packets()
            else:
                result = down_and_up()
            far.communicate(b"\n")
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
