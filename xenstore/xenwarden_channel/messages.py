# SPDX-License-Identifier: LGPL-2.1-or-later
"""Encode and parse channel messages; both total and bounded, and parse never trusts.

One message is one XenStore value: printable ASCII, at most 2,000 bytes, words divided by one space:

    xw1 report seq=42 level=2 why=tx_syn_pps tx_syn_pps=912.5

`xw` and the major version, the kind, then `name=value` words. The sequence number `seq` is always
there. A parser passes over names that it does not know, so fields can be added within a version.
"""

from __future__ import annotations

from xenwarden_channel.paths import MAX_MESSAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
KINDS = (
    "report", "detail", "answer", "request", "headers", "arp",
    "order", "history", "ask", "status", "grant", "look",
)  # fmt: skip
MAX_FIELDS = 128
MAX_NAME = 24
MAX_VALUE = 256
MAX_SEQ = 2**53 - 1  # exact in every reader's number type
MAX_NUMBER = 1e15  # beyond any real rate or count; keeps sums finite
MAX_KNOWN_NAMES = 512

# Names that were found good before: every report has the same forty.
_known_names: set[str] = set()


class MessageError(ValueError):
    """A value is no message: the text says why in at most 80 characters and quotes no guest data."""


class UnknownVersionError(MessageError):
    """The value is a message of another major version than ours."""


class Message:
    """One parsed message: `kind`, `seq` and `fields` (name to text, without `seq`)."""

    __slots__ = ("fields", "kind", "seq")

    def __init__(self, kind: str, seq: int, fields: Mapping[str, str]) -> None:
        self.kind = kind
        self.seq = seq
        self.fields = fields

    def number(self, name: str) -> float | None:
        """Return the field as a finite number ≥ 0, None where it is absent or no such number."""
        return parse_number(self.fields.get(name, ""))

    def numbers(self) -> dict[str, float]:
        """Return all fields that are finite numbers ≥ 0."""
        out = {}
        for name, text in self.fields.items():
            value = parse_number(text)
            if value is not None:
                out[name] = value
        return out


def parse_number(text: str) -> float | None:
    """Parse `digits[.digits]`, at most 16 digits before the point and 6 after; None for anything else.

    No sign, no exponent, no space, no inf and nan: what `float()` would take from a guest is refused.
    """
    whole, point, fraction = text.partition(".")
    if not whole.isdigit() or len(whole) > 16 or (point and (not fraction.isdigit() or len(fraction) > 6)):
        return None
    if not text.isascii():  # isdigit takes digits of every script
        return None
    value = float(text)
    return value if value <= MAX_NUMBER else None


def format_number(value: float) -> str:
    """Format a number so that `parse_number` takes it: at most three decimals, clamped to 0..1e15."""
    if not value > 0:  # NaN too
        return "0"
    text = f"{min(value, MAX_NUMBER):.3f}".rstrip("0").rstrip(".")
    return text or "0"


def encode(kind: str, seq: int, fields: Mapping[str, str | float]) -> bytes:
    """Return the message as bytes.

    Raises:
        MessageError: unknown kind, bad name or value, or more than 2,000 bytes.
    """
    if kind not in KINDS:
        raise MessageError("unknown kind")
    if not 0 <= seq <= MAX_SEQ:
        raise MessageError("seq out of range")
    words = [f"xw{VERSION}", kind, f"seq={seq}"]
    for name, value in fields.items():
        text = value if isinstance(value, str) else format_number(value)
        if not (name in _known_names or _good_name(name)) or name == "seq":
            raise MessageError("bad field name")
        if not _good_value(text):
            raise MessageError(f"bad value of field {name}")
        words.append(f"{name}={text}")
    if len(words) - 3 > MAX_FIELDS:
        raise MessageError("too many fields")
    raw = " ".join(words).encode("ascii")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise MessageError(f"longer than {MAX_MESSAGE_BYTES} bytes")
    return raw


def parse(untrusted: bytes, kind: str) -> Message:
    """Parse a value that should hold a message of `kind`.

    Raises:
        UnknownVersionError: another major version.
        MessageError: anything else that is not exactly such a message.
    """
    if len(untrusted) > MAX_MESSAGE_BYTES:
        raise MessageError("too long")
    try:
        text = untrusted.decode("ascii")
    except UnicodeDecodeError:
        raise MessageError("not ASCII") from None
    if not text.isprintable():
        raise MessageError("not printable")
    words = text.split(" ")
    _check_head(words, kind)
    fields: dict[str, str] = {}
    for word in words[2:]:
        name, equals, value = word.partition("=")
        if not equals or len(value) > MAX_VALUE or not (name in _known_names or _good_name(name)):
            raise MessageError("malformed field")
        if name in fields:
            raise MessageError("field given twice")
        fields[name] = value
    seq = fields.pop("seq", "")
    if not seq.isdigit() or len(seq) > 16 or int(seq) > MAX_SEQ:
        raise MessageError("no sequence number")
    return Message(kind, int(seq), fields)


def _check_head(words: list[str], kind: str) -> None:
    if words[0] != f"xw{VERSION}":
        major = words[0][2:]
        if words[0].startswith("xw") and len(major) <= 4 and major.isdigit():
            raise UnknownVersionError(f"message version {major}, ours is {VERSION}")
        raise MessageError("no xenwarden message")
    if len(words) < 3 or words[1] != kind:
        raise MessageError(f"not a message of kind {kind}")
    if len(words) - 3 > MAX_FIELDS:
        raise MessageError("too many fields")


def _good_name(name: str) -> bool:
    # An identifier in ASCII is letters, digits and underscores, and does not begin with a digit.
    good = name.isascii() and name.isidentifier() and name.islower() and name[0] != "_"
    if good and len(name) <= MAX_NAME:
        if len(_known_names) >= MAX_KNOWN_NAMES:  # only somebody who invents names comes here
            _known_names.clear()
        _known_names.add(name)
        return True
    return False


def _good_value(text: str) -> bool:
    return len(text) <= MAX_VALUE and text.isascii() and text.isprintable() and " " not in text
