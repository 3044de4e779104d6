# SPDX-License-Identifier: LGPL-2.1-or-later
"""The BPF programs on frames of every kind, run by a machine of our own; the kernel runs them next door."""

from __future__ import annotations

import bpf_machine as machine
import frames
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_guest.vsem import bpf
from xenwarden_guest.vsem.headers import parse
from xenwarden_guest.vsem.plan import Plan, address_hash

ALL = Plan(1)
NONE_BY_CHANCE = Plan(0x12345678, shift=20, syn_shift=20, slice_shift=20)
FRAME = st.one_of(
    st.sampled_from([frame for frame, _ in frames.FRAMES.values()]),
    st.binary(max_size=120),
    st.builds(
        lambda frame, at, byte: frame[:at] + bytes([byte]) + frame[at + 1 :],
        st.sampled_from([frame for frame, _ in frames.FRAMES.values()]),
        st.integers(12, 100),
        st.integers(0, 255),
    ),
    st.builds(
        lambda frame, size: frame[:size],
        st.sampled_from([frame for frame, _ in frames.FRAMES.values()]),
        st.integers(0, 120),
    ),
)


def class_of(frame: bytes, packet_type: int, mac: bytes = b"") -> str:
    return bpf.CLASSES[machine.run(bpf.classifier(mac), frame, packet_type, fan_out=True)]


@pytest.mark.parametrize("name", frames.FRAMES)
def test_each_frame_is_counted_in_its_class_and_direction(name: str) -> None:
    frame, kind = frames.FRAMES[name]
    cut = name == "ipv4 no header"
    sent = "none" if cut else f"tx_{kind}"
    received = "none" if cut else "rx_other" if kind == "arp" else f"rx_{kind}"
    assert class_of(frame, machine.OUTGOING) == sent
    assert class_of(frame, machine.HOST) == received
    assert class_of(frame, machine.BROADCAST) == received
    assert class_of(frame, machine.OTHERHOST) == "none"


@pytest.mark.parametrize("name", frames.FRAMES)
def test_at_a_vif_of_dom0_what_comes_in_is_what_the_guest_sends_to_whomever(name: str) -> None:
    frame, kind = frames.FRAMES[name]
    code = bpf.classifier(backend=True)
    for packet_type in (machine.HOST, machine.BROADCAST, machine.OTHERHOST):
        assert machine.run(code, frame, packet_type, fan_out=True) == bpf.CLASSES.index(
            class_of(frame, machine.OUTGOING)
        )
    assert machine.run(code, frame, machine.OUTGOING, fan_out=True) == bpf.CLASSES.index(
        class_of(frame, machine.HOST)
    )
    sampler = bpf.sampler(ALL, ALL, backend=True)
    taken = machine.run(bpf.sampler(ALL, ALL), frame, machine.OUTGOING)
    assert machine.run(sampler, frame, machine.OTHERHOST) == taken, kind


def test_on_a_bridge_only_own_frames_count() -> None:
    mac = b"\x02\0\0\0\0\x01"
    own, _ = frames.FRAMES["tcp4 syn"]
    forwarded = frames.ethernet(frames.V4, frames.ipv4(6, frames.tcp(frames.SYN)), source=b"\x02\0\0\0\0\x09")
    assert class_of(own, machine.OUTGOING, mac) == "tx_syn"
    assert class_of(forwarded, machine.OUTGOING, mac) == "none"
    assert class_of(own, machine.HOST, mac) == "rx_syn"
    assert class_of(own, machine.BROADCAST, mac) == "none"
    assert machine.run(bpf.sampler(ALL, ALL, mac), own, machine.OUTGOING) > 0
    assert machine.run(bpf.sampler(ALL, ALL, mac), forwarded, machine.OUTGOING) == 0


@pytest.mark.parametrize("name", frames.FRAMES)
def test_no_payload_byte_is_within_the_length_that_the_sampler_returns(name: str) -> None:
    frame, _ = frames.FRAMES[name]
    length = machine.run(bpf.sampler(ALL, ALL), frame, machine.OUTGOING)
    assert b"SECRET" not in frame[:length]
    assert frames.PAYLOAD[:2] not in frame[:length]


@given(FRAME, st.sampled_from([machine.OUTGOING, machine.HOST]))
def test_any_bytes_have_a_class_and_headers_of_bounded_length(frame: bytes, packet_type: int) -> None:
    assert 0 <= machine.run(bpf.classifier(), frame, packet_type, fan_out=True) < len(bpf.CLASSES)
    length = machine.run(bpf.sampler(ALL, ALL), frame, packet_type)
    assert length <= 22 + 40 + 14  # two tags, IPv6, TCP up to its flags


@given(FRAME)
def test_user_space_reads_the_same_from_the_headers_as_from_the_whole_frame(frame: bytes) -> None:
    length = machine.run(bpf.sampler(ALL, ALL), frame, machine.OUTGOING)
    if not length:
        return
    cut, whole = parse(frame[:length]), parse(frame)
    assert (cut is None) == (whole is None)
    if cut is None:
        return
    for slot in cut.__slots__:
        assert getattr(cut, slot) == getattr(whole, slot)
    if cut.syn:
        assert class_of(frame, machine.OUTGOING) in ("tx_syn", "tx_rst")


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([frames.A4, frames.B4, frames.A6, frames.B6]),
    st.integers(1, 4),
)
def test_the_kernel_and_user_space_agree_on_the_slice_of_addresses(
    salt: int, address: bytes, slice_shift: int
) -> None:
    plan = Plan(salt, shift=20, syn_shift=20, slice_shift=slice_shift)
    body = frames.tcp(frames.ACK)
    if len(address) == 4:
        frame = frames.ethernet(frames.V4, frames.ipv4(6, body, dest=address))
    else:
        frame = frames.ethernet(frames.V6, frames.ipv6(6, body, dest=address))
    taken = machine.run(bpf.sampler(plan, ALL), frame, machine.OUTGOING, random=2**32 - 1) > 0
    assert taken == (plan.stands_for(address_hash(address, plan.salt), syn=False) == 1)


@pytest.mark.parametrize(
    ("name", "shift"), [("tcp4 syn", 3), ("tcp4 ack", 5), ("udp4", 5), ("icmp6 echo", 5), ("arp", 5)]
)
def test_chance_takes_one_in_a_power_of_two_with_syns_apart(name: str, shift: int) -> None:
    plan = Plan(7, shift=5, syn_shift=3, slice_shift=32)
    program = bpf.sampler(ALL, plan)
    frame, _ = frames.FRAMES[name]
    assert machine.run(program, frame, machine.HOST, random=(2**32 >> shift) - 1) > 0
    assert machine.run(program, frame, machine.HOST, random=2**32 >> shift) == 0


def test_jumps_of_every_plan_fit_the_instruction() -> None:
    for sent in (ALL, NONE_BY_CHANCE):
        for received in (ALL, NONE_BY_CHANCE):
            for mac in (b"", b"\x02\0\0\0\0\x01"):
                assert 8 <= len(bpf.sampler(sent, received, mac)) <= 4096 * 8
