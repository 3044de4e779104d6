# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden-agent request` as a process in a guest of the real XenStore; the test is dom0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xenwarden_channel import paths
from xenwarden_channel.client import StoreClient
from xenwarden_channel.errors import StoreError
from xenwarden_channel.messages import Message, encode, parse
from xenwarden_guest.request import parse_amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenstore_worlds import Wait
    from xenstored_offline import Xenstored

ROOT = Path(__file__).parents[2]
DOMID = 5
START = "import sys; from xenwarden_guest.main import main; sys.exit(main())"


class Dom0:
    """dom0's end of one guest's requests."""

    def __init__(self, daemon: Xenstored, root: Path) -> None:
        daemon.create(DOMID)
        self.store = StoreClient(daemon.socket)
        guest = daemon.guest(DOMID)
        self.device = guest._path
        guest.close()
        (root / "sys/hypervisor").mkdir(parents=True)
        (root / "sys/hypervisor/type").write_text("xen\n")
        self.root = root
        path = paths.absolute(DOMID, paths.DOWN_DIR)
        self.store.mkdir(path)
        self.store.set_permissions(path, ["n0", f"r{DOMID}"])

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {"PYTHONPATH": f"{ROOT}/domU:{ROOT}/xenstore", "PATH": os.environ["PATH"]}
        return subprocess.Popen(
            [sys.executable, "-S", "-c", START, "request", *words,
             "--root", str(self.root), "--store", self.device],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def request(self) -> Message | None:
        try:
            return parse(self.store.read(paths.absolute(DOMID, paths.UP_REQUEST)), "request")
        except StoreError:
            return None

    def answer(self, **fields: str | float) -> None:
        self.store.write(paths.absolute(DOMID, paths.DOWN_GRANT), encode("grant", 9, fields))


@pytest.fixture
def dom0(xenstored: Xenstored, tmp_path: Path) -> Iterator[Dom0]:
    dom0 = Dom0(xenstored, tmp_path)
    yield dom0
    dom0.store.close()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out + err


@pytest.mark.xenstored
@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"outcome": "granted", "more": 131072}, 0, "granted: 131072 kB more\n"),
        (
            {"outcome": "granted", "more": 65536, "why": "in-part"},
            0,
            "granted: 65536 kB more of the 131072 asked for\n",
        ),
        (
            {"outcome": "denied", "more": 0, "why": "suspicion"},
            3,
            "denied: the VM is watched, contained or protected\n",
        ),
        (
            {"outcome": "expired", "more": 0, "why": "failed"},
            4,
            "expired: the host was to change it and did not\n",
        ),
    ],
)
def test_a_request_waits_for_its_answer_and_tells_it(
    dom0: Dom0, eventually: Wait, fields: dict[str, str | float], status: int, told: str
) -> None:
    dom0.answer(id=41, outcome="granted", what="memory", more=1)  # to an earlier request
    process = dom0.start("--memory", "+128M")
    eventually(dom0.request)
    request = dom0.request()
    assert request is not None
    assert dict(request.fields) == {"id": "42", "what": "memory", "more": "131072"}
    dom0.answer(id=42, what="memory", **fields)
    assert ended(process) == (status, told)


@pytest.mark.xenstored
def test_a_request_without_answer_expires_and_is_withdrawn(dom0: Dom0) -> None:
    assert ended(dom0.start("--vcpus", "+1", "--wait", "1")) == (
        4,
        "expired: dom0 did not answer in time\n",
    )
    assert dom0.request() is None


@pytest.mark.xenstored
def test_a_later_request_of_somebody_else_is_left_alone(dom0: Dom0, eventually: Wait) -> None:
    process = dom0.start("--vcpus", "+1", "--wait", "2")
    eventually(dom0.request)
    other = encode("request", 2, {"id": 2, "what": "weight", "more": 64})
    dom0.store.write(paths.absolute(DOMID, paths.UP_REQUEST), other)  # in the guest's name
    dom0.answer(id=2, outcome="granted", what="weight", more=64)
    assert ended(process)[0] == 4
    request = dom0.request()
    assert request is not None
    assert request.fields["what"] == "weight"


@pytest.mark.xenstored
def test_json_has_the_answer_for_a_script(dom0: Dom0, eventually: Wait) -> None:
    process = dom0.start("--weight", "+64", "--json")
    eventually(dom0.request)
    dom0.answer(id=1, outcome="denied", what="weight", more=0, why="maximum")
    status, out = ended(process)
    answer: dict[str, Any] = json.loads(out)
    text = answer.pop("text")
    assert (status, text) == (3, "denied: the VM has all that policy or its configuration allow")
    assert answer == {
        "id": 1,
        "what": "weight",
        "unit": "units of weight",
        "asked": 64,
        "outcome": "denied",
        "more": 0,
        "why": "maximum",
    }


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--memory", "128M"],
        ["--memory", "+128"],
        ["--memory", "+0M"],
        ["--vcpus", "+1", "--weight", "+1"],
        ["--vcpus", "+-1"],
        ["--vcpus", "+1", "--once"],
        ["--vcpus", "+1", "--wait", "-1"],
    ],
)
def test_a_wrong_request_is_told(words: list[str]) -> None:
    environment = {"PYTHONPATH": f"{ROOT}/domU:{ROOT}/xenstore", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-S", "-c", START, "request", *words],
        env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "usage: " in done.stderr


def test_amounts_are_in_the_unit_of_the_resource() -> None:
    assert parse_amount("memory", "+512K") == 512
    assert parse_amount("memory", "+1G") == 1 << 20
    assert parse_amount("vcpus", "+2") == 2
