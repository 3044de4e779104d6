# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages and wire format: total, bounded, and the same after a round trip."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyxs._internal import Op

from xenwarden_channel import messages, paths, wire

names = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=24).filter(
    lambda name: name[0] in string.ascii_lowercase and name != "seq"
)
values = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=40)
numbers = st.floats(min_value=0, max_value=1e15)
kinds = st.sampled_from(messages.KINDS)


@given(kinds, st.integers(0, messages.MAX_SEQ), st.dictionaries(names, values, max_size=20))
def test_what_is_encoded_is_parsed_to_the_same(kind: str, seq: int, fields: dict[str, str]) -> None:
    raw = messages.encode(kind, seq, fields)
    assert len(raw) <= paths.MAX_MESSAGE_BYTES
    message = messages.parse(raw, kind)
    assert (message.kind, message.seq, message.fields) == (kind, seq, fields)


@given(st.dictionaries(names, numbers, max_size=20))
def test_numbers_come_through_to_three_decimals(fields: dict[str, float]) -> None:
    message = messages.parse(messages.encode("report", 1, fields), "report")
    assert message.numbers().keys() == fields.keys()
    for name, value in fields.items():
        assert message.number(name) == pytest.approx(value, abs=0.0005, rel=1e-12)


@given(st.floats(allow_nan=True, allow_infinity=True))
@example(math.inf)
@example(-0.0)
@example(5e-324)
@example(1e15 - 0.0001)
def test_every_float_is_sent_as_a_number_that_is_taken(value: float) -> None:
    parsed = messages.parse_number(messages.format_number(value))
    assert parsed is not None
    assert 0 <= parsed <= messages.MAX_NUMBER


@given(st.binary(max_size=3000), kinds)
@example(b"xw1 report seq=1", "report")
@example(b"xw1 report  seq=1", "report")
@example(b"xw1 report seq=1 ", "report")
def test_any_bytes_are_a_message_or_an_error(raw: bytes, kind: str) -> None:
    try:
        message = messages.parse(raw, kind)
    except messages.MessageError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert len(refusal) <= 80
    if refusal:
        return
    again = messages.encode(kind, message.seq, message.fields)
    assert messages.parse(again, kind).fields == message.fields


words = st.one_of(
    st.builds(lambda name, value: f"{name}={value}", names, st.one_of(values, numbers.map(repr))),
    st.sampled_from(["seq=1", "seq=", "seq=-1", "=", "a==b", "a=1", "a=1", "", "\t", "xw1"]),
)


@given(st.sampled_from(["xw1", "xw2", "xw", "xw01", "XW1", "xw12345"]), kinds, st.lists(words, max_size=140))
def test_almost_messages_are_messages_or_errors(head: str, kind: str, body: list[str]) -> None:
    raw = " ".join([head, kind, *body]).encode()
    try:
        message = messages.parse(raw, kind)
    except messages.MessageError:
        return
    assert head == "xw1"
    assert len(message.fields) <= messages.MAX_FIELDS
    assert all(math.isfinite(value) and value >= 0 for value in message.numbers().values())


@given(st.text(max_size=30))
@example("١٢")  # digits elsewhere
@example("1_0")
@example("1e400")
@example("0x1")
@example("9" * 17)
@example("1.")
@example(".1")
@example("1.0000000")
@example("1000000000000001")
def test_a_number_is_digits_and_a_point_or_nothing(text: str) -> None:
    value = messages.parse_number(text)
    if value is not None:
        assert set(text) <= set("0123456789.")
        assert 0 <= value <= messages.MAX_NUMBER


@pytest.mark.parametrize(
    ("raw", "version"),
    [(b"xw2 report seq=1", "2"), (b"xw9999 anything at all", "9999"), (b"xw0", "0")],
)
def test_another_major_version_is_told_as_such(raw: bytes, version: str) -> None:
    with pytest.raises(messages.UnknownVersionError, match=f"version {version},"):
        messages.parse(raw, "report")


@pytest.mark.parametrize(
    "raw", [b"xw report seq=1", b"xwx report seq=1", b"xw10000 report seq=1", b"", b"xw"]
)
def test_what_only_looks_like_a_version_is_no_message(raw: bytes) -> None:
    with pytest.raises(messages.MessageError) as caught:
        messages.parse(raw, "report")
    assert not isinstance(caught.value, messages.UnknownVersionError)


def test_fields_of_a_later_minor_version_pass() -> None:
    message = messages.parse(b"xw1 report seq=7 level=1 brand_new=42 tx_pps=1.5", "report")
    assert message.number("tx_pps") == 1.5
    assert message.fields["brand_new"] == "42"


@pytest.mark.parametrize(
    ("kind", "seq", "fields"),
    [
        ("unheard_of", 1, {}),
        ("report", -1, {}),
        ("report", messages.MAX_SEQ + 1, {}),
        ("report", 1, {"seq": "1"}),
        ("report", 1, {"Name": "1"}),
        ("report", 1, {"": "1"}),
        ("report", 1, {"n" * 25: "1"}),
        ("report", 1, {"name": "with space"}),
        ("report", 1, {"name": "tab\t"}),
        ("report", 1, {"name": "größe"}),
        ("report", 1, {"name": "x" * 257}),
        ("report", 1, {f"n{number}": "1" for number in range(129)}),
        ("report", 1, {f"n{number}": "x" * 250 for number in range(8)}),
    ],
)
def test_what_would_not_be_parsed_is_not_encoded(kind: str, seq: int, fields: dict[str, str]) -> None:
    with pytest.raises(messages.MessageError):
        messages.encode(kind, seq, fields)


# --- wire -------------------------------------------------------------------------------------------

packets = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=12
)


@given(packets, st.lists(st.integers(1, 50), max_size=60))
def test_packets_come_out_whole_however_they_arrive(
    sent: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(wire.pack(op, rq_id, 9, payload) for op, rq_id, payload in sent)
    reader = wire.PacketReader()
    got = []
    for cut in cuts:
        got += reader.feed(stream[:cut])
        stream = stream[cut:]
    got += reader.feed(stream)
    assert got == sent


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_any_stream_is_packets_or_an_error_and_is_bounded(pieces: list[bytes]) -> None:
    reader = wire.PacketReader(max_payload=64)
    try:
        for piece in pieces:
            for _op, _rq_id, payload in reader.feed(piece):
                assert len(payload) <= 64
            assert len(reader._rest) <= 64 + wire.HEADER_SIZE
    except wire.ProtocolError:
        pass


def test_a_payload_beyond_the_limit_is_refused_by_its_header() -> None:
    reader = wire.PacketReader()
    assert reader.feed(wire.HEADER.pack(2, 1, 0, 4096)) == []
    with pytest.raises(wire.ProtocolError):
        wire.PacketReader().feed(wire.HEADER.pack(2, 1, 0, 4097))
    with pytest.raises(ValueError, match="too long"):
        wire.pack(wire.WRITE, 1, 0, b"x" * 4097)


@given(st.binary(max_size=60))
@example(b"/a\0t\0")
@example(b"/a\0t")
@example(b"\xff\0t\0")
def test_any_event_is_path_and_token_or_nothing(payload: bytes) -> None:
    event = wire.split_event(payload)
    if event is not None:
        assert payload.startswith(event[0].encode() + b"\0" + event[1].encode() + b"\0")


def test_operations_are_those_of_pyxs() -> None:
    for name in Op._fields:
        if hasattr(wire, name):
            assert getattr(wire, name) == getattr(Op, name)
