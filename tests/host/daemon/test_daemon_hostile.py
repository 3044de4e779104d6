# SPDX-License-Identifier: LGPL-2.1-or-later
"""xenwardend on both real XenStore daemons, with one guest that does its worst and one that is honest."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from test_daemon_process import Daemon, report

from xenwarden_channel import paths, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenstore_worlds import Wait
    from xenstored_offline import Ring, Xenstored

pytestmark = pytest.mark.xenstored

EVIL, HONEST = 3, 4
HEAD = b"xw1 report seq=1 boot=0000abcd level=1 interval=1"
GARBLED = [
    b"",
    b"\0",
    b"\xff\xfe\x00\x01",
    "xw1 report seq=1 why=größe".encode(),
    b"A" * 2010,
    b"xw1 report seq=-1 boot=0000abcd level=1 interval=1",
    b"xw1 report seq=1" + b"0" * 400 + b" boot=0000abcd level=1 interval=1",
    b"xw1 report seq=1 boot=0000abcd level=1 interval=nan",
    b"xw1 report seq=1 boot=0000abcd level=1 interval= 1",
    HEAD + b" level=2",
    HEAD + b" a=1" * 200,
]
NO_NUMBERS = [b"-5", b"+5", b"1e400", b"1" + b"0" * 400, b"nan", b"inf", b"0x10", b""]


class Host:
    """The daemon and its two guests."""

    def __init__(
        self, daemon: Daemon, xenstored: Xenstored, capsys: pytest.CaptureFixture[str], eventually: Wait
    ) -> None:
        self.daemon = daemon
        self._capsys = capsys
        self._eventually = eventually
        self._honest = xenstored.guest(HONEST)
        self._evil = xenstored.ring(EVIL)
        self._seq = 0

    def show(self, domid: int) -> Any:
        return self.daemon.ask(self._capsys, "show", f"vm{domid}")

    def list(self) -> Any:
        return self.daemon.ask(self._capsys, "list")

    def signal(self, domid: int, name: str) -> float | None:
        value: float | None = self.show(domid)["signals"].get(name, {}).get("value")
        return value

    def becomes(self, domid: int, state: str) -> None:
        """Wait until dom0 says so of the domain's agent."""
        self._eventually(lambda: (self.show(domid)["agent"] or {}).get("state") == state)

    def eventually(self, condition: Callable[[], object]) -> None:
        self._eventually(condition)

    def evil(self, path: str, value: bytes) -> int:
        """Write as the hostile guest and return the operation of the answer."""
        return self._evil.ask(wire.WRITE, path.encode() + b"\0" + value)[0]

    @property
    def ring(self) -> Ring:
        return self._evil

    def serves(self) -> None:
        """Assert that the honest guest's next report is heard."""
        self._seq += 1
        self._honest.write(paths.UP_REPORT, report(self._seq, tx_pps=self._seq))
        self._eventually(lambda: self.signal(HONEST, "tx_pps") == self._seq)
        assert self.show(HONEST)["agent"]["state"] == "alive"

    def rss_kb(self) -> int:
        status = Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


@pytest.fixture
def host(
    xenstored: Xenstored, tmp_path: Path, capsys: pytest.CaptureFixture[str], eventually: Wait
) -> Iterator[Host]:
    for domid in (EVIL, HONEST):
        xenstored.create(domid)
    daemon = Daemon(tmp_path, xenstored.socket, EVIL, HONEST)
    host = Host(daemon, xenstored, capsys, eventually)
    yield host
    try:
        assert not host.list()["daemon"]["errors"]
        assert daemon.process.poll() is None
        refused = [line for line in daemon.text().splitlines() if "event=guest-refused" in line]
        assert len(refused) <= 1, "told once a minute at most"
        assert not any(f"vm={HONEST}" in line or f"domid={HONEST}" in line for line in refused)
    finally:
        daemon.end()


def test_what_is_no_report_marks_its_guest_only(host: Host) -> None:
    for value in GARBLED:
        host.evil(paths.UP_REPORT, HEAD.replace(b"0000abcd", b"%08x" % GARBLED.index(value)))
        host.becomes(EVIL, "alive")
        host.evil(paths.UP_REPORT, value)
        host.becomes(EVIL, "garbled")
    host.evil(paths.UP_REPORT, b"xw2 report seq=1 all=new")
    host.becomes(EVIL, "version")
    host.serves()


def test_what_is_no_number_is_not_measured(host: Host) -> None:
    for seq, text in enumerate(NO_NUMBERS, 1):
        fields = b"rx_pps=%d" % seq + (b" tx_pps=" + text if len(text) < 200 else b" tx_pps=" + text[:250])
        host.evil(paths.UP_REPORT, HEAD.replace(b"seq=1", b"seq=%d" % seq) + b" " + fields)
        host.eventually(lambda seq=seq: host.signal(EVIL, "rx_pps") == seq)  # type: ignore[misc]
        assert host.signal(EVIL, "tx_pps") is None
    host.serves()


def test_a_sequence_may_jump_and_neither_stay_nor_go_back(host: Host) -> None:
    def write(seq: int, boot: bytes, rx_pps: int) -> None:
        value = b"xw1 report seq=%d boot=%s level=1 interval=1 rx_pps=%d" % (seq, boot, rx_pps)
        host.evil(paths.UP_REPORT, value)

    write(5, b"0000abcd", 1)
    host.eventually(lambda: host.signal(EVIL, "rx_pps") == 1)
    write(2**52, b"0000abcd", 2)
    host.eventually(lambda: host.signal(EVIL, "rx_pps") == 2)
    for seq in (2**52, 6):
        write(seq, b"0000abcd", 3 + seq % 2)
        host.becomes(EVIL, "garbled")
    assert host.signal(EVIL, "rx_pps") == 2
    write(1, b"0000abce", 4)  # its agent has started again
    host.becomes(EVIL, "alive")
    assert host.signal(EVIL, "rx_pps") == 4
    host.serves()


def test_what_it_says_is_its_own_whatever_it_claims(host: Host) -> None:
    host.serves()
    value = HEAD + b" domid=%d uuid=%s tx_pps=777" % (HONEST, str(UUID(int=HONEST)).encode())
    host.evil(paths.UP_REPORT, value)
    host.eventually(lambda: host.signal(EVIL, "tx_pps") == 777)
    assert host.signal(HONEST, "tx_pps") == 1
    assert host.evil(paths.absolute(HONEST, paths.UP_REPORT), value) == wire.ERROR
    # An answer to no question, to one of another guest, and a grant that nobody gave.
    host.evil(paths.UP_ANSWER, b"xw1 answer seq=1 id=4711 load_pct=99")
    assert (
        host.evil(paths.DOWN_GRANT, b"xw1 grant seq=1 id=1 outcome=granted what=memory more=9") == wire.ERROR
    )
    host.serves()
    assert "event=answer" not in host.daemon.text()
    assert host.show(EVIL)["grants"] == []


def test_floods_nodes_and_transactions_cost_the_others_nothing(host: Host, xenstored: Xenstored) -> None:
    host.serves()
    before_kb = host.rss_kb()
    for number in range(1100):
        host.evil(f"data/xenwarden/{number // 50}/child-{number}", b"")
    host.ring.ask(wire.RM, b"data/xenwarden/0\0")  # room for what follows
    host.serves()
    stop = threading.Event()

    def flood() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            host.evil(paths.UP_REPORT, b"xw1 report seq=%d" % number)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(5):
            host.serves()
        host.becomes(EVIL, "garbled")
    finally:
        stop.set()
        thread.join()
    for _ in range(30):
        host.ring.ask(wire.TRANSACTION_START, b"\0")
    for _ in range(3):
        host.serves()
    if xenstored.kind == "xenstored":
        host.eventually(lambda: any("vm3 holds a XenStore transaction" in x for x in host.list()["notices"]))
    for permissions in (b"n3\0", b"w3\0"):
        host.ring.ask(wire.SET_PERMS, paths.UP_REPORT.encode() + b"\0" + permissions)
        host.ring.ask(wire.RM, paths.UP_DIR.encode() + b"\0")
    host.serves()
    assert host.rss_kb() - before_kb < 4096
