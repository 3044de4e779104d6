# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden-agent request`: ask dom0 for more memory, vCPUs or weight, and wait for the answer."""

from __future__ import annotations

from select import POLLIN, poll
from time import monotonic

from xenwarden_channel import paths
from xenwarden_channel.errors import NotFoundError, PermissionDeniedError
from xenwarden_channel.grants import REASONS, RESOURCES
from xenwarden_channel.guest import GuestStore
from xenwarden_channel.messages import MessageError, encode, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_channel.messages import Message

WAIT_S = 20.0  # longer than dom0 takes to decide and do it
STATUS = {"granted": 0, "denied": 3, "expired": 4}
VALUES = {"--wait": "wait", **{f"--{what}": what for what in RESOURCES}}
_KB = {"K": 1, "M": 1 << 10, "G": 1 << 20}
_MOST = 2**40


class Options:
    """What is asked for."""

    __slots__ = ("more", "wait_s", "what")

    def __init__(self) -> None:
        self.what = ""
        self.more = 0
        self.wait_s = WAIT_S

    def take(self, name: str, value: str) -> None:
        """Take the option `name`, one of `VALUES`.

        Raises:
            ValueError: the text says what is wrong.
        """
        if name == "wait":
            if not (value.isascii() and value.isdigit() and len(value) <= 4):
                raise ValueError("--wait takes seconds, at most 9999")
            self.wait_s = float(value)
        elif self.what:
            raise ValueError("a request is for one resource")
        else:
            self.what, self.more = name, parse_amount(name, value)


class Answer:
    """What became of a request: `more` was granted, in the unit of the resource."""

    __slots__ = ("more", "outcome", "request_id", "why")

    def __init__(self, request_id: int, outcome: str, more: int, why: str) -> None:
        self.request_id = request_id
        self.outcome = outcome
        self.more = more
        self.why = why


def parse_amount(what: str, text: str) -> int:
    """Return how much more is asked for; memory as `+128M` (K, M, G) in kB, the others as `+1`.

    Raises:
        ValueError: no such amount; the text says what is expected.
    """
    digits = text[1:]
    unit = 1
    if what == "memory":
        unit = _KB.get(digits[-1:].upper(), 0)
        digits = digits[:-1]
    known = text[:1] == "+" and unit and digits.isascii() and digits.isdigit() and len(digits) <= 12
    amount = int(digits) * unit if known else 0
    if not 0 < amount <= _MOST:
        raise ValueError(f"--{what} takes an amount such as {'+128M' if what == 'memory' else '+1'}")
    return amount


def ask(store: GuestStore, home: str, what: str, more: int, wait_s: float) -> Answer:
    """Write the request and wait for its answer; without one in time it is withdrawn, and expired.

    Raises:
        StoreError: XenStore does not work.
    """
    request_path, grant_path = home + paths.UP_REQUEST, home + paths.DOWN_GRANT
    store.watch(home + paths.DOWN_DIR, "grant")
    last = max(_id(_read(store, request_path, "request")), _id(_read(store, grant_path, "grant")))
    request_id = last + 1
    fields: dict[str, str | float] = {"id": str(request_id), "what": what, "more": str(more)}
    store.write(request_path, encode("request", request_id, fields))
    until_s = monotonic() + wait_s
    poller = poll()
    poller.register(store.fileno(), POLLIN)
    while True:
        answer = _read(store, grant_path, "grant")
        if _id(answer) == request_id and answer is not None:
            granted = int(answer.number("more") or 0)
            return Answer(request_id, answer.fields.get("outcome", ""), granted, answer.fields.get("why", ""))
        left_s = until_s - monotonic()
        if left_s <= 0:
            break
        if not store.events():  # one that came along with the value just read is not seen by poll
            poller.poll(left_s * 1000)
    # Somebody else may have asked meanwhile: that request is not ours to withdraw.
    if _id(_read(store, request_path, "request")) == request_id:
        store.remove(request_path)
    return Answer(request_id, "expired", 0, "")


def sentence(what: str, more: int, answer: Answer) -> str:
    """Return the answer in words."""
    why = REASONS.get(answer.why, answer.why)
    if answer.outcome == "granted":
        told = f"granted: {answer.more} {RESOURCES[what]} more"
        return f"{told} of the {more} asked for" if answer.more != more else told
    if answer.outcome == "expired" and not answer.why:
        return "expired: dom0 did not answer in time"
    return f"{answer.outcome}: {why}"


def run(store_path: str, home: str, options: Options, *, as_json: bool) -> int:
    """Ask and print the answer; return the exit status.

    Raises:
        StoreError: XenStore does not work.
    """
    what, more = options.what, options.more
    store = GuestStore(store_path)
    try:
        answer = ask(store, home, what, more, options.wait_s)
    finally:
        store.close()
    text = sentence(what, more, answer)
    if as_json:
        import json  # noqa: PLC0415  only this needs it

        print(json.dumps({
            "id": answer.request_id,
            "what": what,
            "unit": RESOURCES[what],
            "asked": more,
            "outcome": answer.outcome,
            "more": answer.more,
            "why": answer.why,
            "text": text,
        }, indent=2))  # fmt: skip
    else:
        print(text)
    return STATUS.get(answer.outcome, 1)


def _read(store: GuestStore, path: str, kind: str) -> Message | None:
    try:
        return parse(store.read(path), kind)
    except (NotFoundError, PermissionDeniedError, MessageError):  # not written yet, or never made for us
        return None


def _id(message: Message | None) -> int:
    return 0 if message is None else int(message.number("id") or 0)
