# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fuzz what reads guests' bytes: messages, the daemon's records of them, and the wire format.

    ./ci/fuzz/channel [SECONDS]

New inputs go to `.cache/fuzz/channel`; a crash, a hang of 5 s or growth beyond 512 MB ends it with the
input beside them. `tests/channel/fuzz_corpus` holds the few inputs that cover what is known; the tests
replay them. To renew it:

    ./ci/fuzz/channel keep
"""

from __future__ import annotations

import math

from fuzz import ROOT, require
from xenwarden_channel import errors, messages, paths, wire
from xenwarden_host.daemon import guests

CORPUS = ROOT / "tests" / "channel" / "fuzz_corpus"
MAX_INPUT = 4400  # a little more than one packet


def check(data: bytes) -> None:
    """Feed one input to one target, which the first byte chooses; raises where a promise is broken."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def check_message(data: bytes) -> None:
    """Any bytes are a message that survives a round trip, or a MessageError."""
    kind = messages.KINDS[data[0] % len(messages.KINDS)] if data else "report"
    try:
        message = messages.parse(data[1:], kind)
    except messages.MessageError as error:
        require(len(str(error)) <= 80, "the refusal is short")
        return
    require(0 <= message.seq <= messages.MAX_SEQ, "seq is bounded")
    require(len(message.fields) <= messages.MAX_FIELDS, "fields are bounded")
    require(all(math.isfinite(number) and number >= 0 for number in message.numbers().values()), "numbers")
    again = messages.parse(messages.encode(kind, message.seq, message.fields), kind)
    require(again.seq == message.seq and again.fields == message.fields, "round trip")


def check_records(data: bytes) -> None:
    """The daemon makes records of any bytes, or raises MessageError, and keeps its count of an agent."""
    for parse in (guests.parse_report, guests.parse_detail, guests.parse_answer, guests.parse_request):
        try:
            record = parse(data)
        except messages.MessageError:
            continue
        require(len(repr(record)) < 32 * paths.MAX_MESSAGE_BYTES, "a record is bounded")
    inbox = guests.Inbox()
    for number, value in enumerate(data.split(b"\n")):  # no message has one
        before = inbox.report
        try:
            inbox.take(paths.UP[value[0] % len(paths.UP)] if value else paths.UP_REPORT, value[1:], number)
        except messages.MessageError:
            require(inbox.report is before, "what is refused changes no report")
        after = inbox.report
        if before is not None and after is not None and before.boot == after.boot:
            require(before.seq <= after.seq, "seq does not go back")
        inbox.state(number, level1_s=5, level2_s=1)


def check_wire(data: bytes) -> None:
    """A stream gives the same packets however it is cut, and holds no more than one packet back."""
    cut, stream = data[:16], data[16:]
    whole = read_all([stream])
    pieces = []
    for size in cut:
        pieces.append(stream[: size + 1])
        stream = stream[size + 1 :]
    pieces.append(stream)
    parts = read_all(pieces)
    # A stream that breaks the protocol is lost from some packet on, which depends on the cut.
    require(parts == whole if whole[-1:] != [None] else parts[-1:] == [None], "cuts make no difference")


def read_all(pieces: list[bytes]) -> list[tuple[int, int, bytes] | None]:
    """Return the packets of a stream; None at the end where it broke the protocol."""
    reader = wire.PacketReader(max_payload=256)
    packets: list[tuple[int, int, bytes] | None] = []
    for piece in pieces:
        try:
            packets += reader.feed(piece)
        except wire.ProtocolError:
            return [*packets, None]
    return packets


def check_small(data: bytes) -> None:
    """Events, error replies and numbers: something or nothing, and no other exception."""
    event = wire.split_event(data)
    require(event is None or (event[0].isascii() and "\0" not in event[0]), "event")
    require(len(errors.from_reply(data, "x").code) <= 16, "error code")
    number = messages.parse_number(data.decode("latin-1"))
    require(number is None or 0 <= number <= messages.MAX_NUMBER, "number")


TARGETS = (check_message, check_records, check_wire, check_small)
