# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of paths, the code, and a live store say the same."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from xenstore_contract import is_value, read_page, violations

from xenwarden_channel import grants, messages, paths, signals
from xenwarden_channel.client import StoreClient

if TYPE_CHECKING:
    from xenstored_offline import Xenstored

CONTRACT = read_page()
# Beside what every domain has: of dom0's own agent.
UP_OF_DOM0 = {"headers": f"{paths.UP_HEADERS_DIR}/$DOMID", "arp": paths.UP_ARP}
DOWN_OF_DOM0 = {"look": paths.DOWN_LOOK}
KINDS = {path.rpartition("/")[2]: path for path in (*paths.UP, *paths.DOWN)} | UP_OF_DOM0 | DOWN_OF_DOM0


def test_the_page_has_every_path_of_the_code_and_no_other() -> None:
    up = [f"~/{path}" for path in (paths.UP_DIR, *paths.UP, paths.UP_HEADERS_DIR, *UP_OF_DOM0.values())]
    down = [f"~/{path}" for path in (paths.DOWN_DIR, *paths.DOWN, *DOWN_OF_DOM0.values())]
    control = [paths.TOOL_DIR, f"{paths.POLICY_DIR}/$KEY", f"{paths.VM_DIR}/$UUID/$KEY"]
    assert list(CONTRACT.entries) == [*up, *down, *control]
    assert {CONTRACT.entries[path].tags for path in up} == {"w"}
    assert {CONTRACT.entries[path].tags for path in down} == {""}
    assert {CONTRACT.entries[path].tags for path in control} == {"n"}


def test_every_kind_of_message_has_its_path() -> None:
    described = {entry.kind: path for path, entry in CONTRACT.entries.items() if entry.kind}
    assert described == {kind: f"~/{path}" for kind, path in KINDS.items()}
    assert set(described) == set(messages.KINDS)


def test_every_signal_of_a_guest_is_on_the_page_with_unit_and_meaning() -> None:
    report = CONTRACT.entries[f"~/{paths.UP_REPORT}"]
    assert signals.ARP_RATES.keys() < CONTRACT.entries[f"~/{paths.UP_ARP}"].fields.keys()
    assert report.signals == {
        name: (unit, meaning)
        for name, (source, unit, meaning) in signals.SIGNALS.items()
        if source in (signals.VSEM, signals.VREM)
    }
    headers = CONTRACT.entries[f"~/{UP_OF_DOM0['headers']}"]
    assert headers.signals == {name: report.signals[name] for name in signals.HEADERS}


def test_resources_outcomes_and_reasons_of_grants_are_those_of_the_code() -> None:
    request, grant = (CONTRACT.entries[f"~/{path}"] for path in (paths.UP_REQUEST, paths.DOWN_GRANT))
    order = CONTRACT.entries[f"~/{paths.DOWN_ORDER}"]
    assert {f"more_{what}" for what in grants.RESOURCES} <= order.fields.keys()

    def choices(values: str) -> list[str]:
        return re.findall(r'"([^"]*)"', values)

    assert choices(request.fields["what"]) == choices(grant.fields["what"]) == list(grants.RESOURCES)
    assert choices(grant.fields["outcome"]) == list(grants.OUTCOMES)
    assert choices(grant.fields["why"]) == [*grants.REASONS, ""]
    assert dict(re.findall(r"^\* `(.+?)` -- (.+)\.$", grant.text, re.MULTILINE)) == grants.REASONS


def test_the_limits_are_those_of_the_code() -> None:
    assert CONTRACT.limits == {
        "version": messages.VERSION,
        "bytes of a message": paths.MAX_MESSAGE_BYTES,
        "fields besides `seq`": messages.MAX_FIELDS,
        "characters of a name": messages.MAX_NAME,
        "characters of a value": messages.MAX_VALUE,
        "highest `seq`": messages.MAX_SEQ,
        "domains in a look": paths.MAX_LOOKS,
        "domains in what ARP shows": paths.MAX_ARP,
    }


def test_every_field_can_be_sent() -> None:
    """Names fit, VALUES are defined, and a message with all fields at their usual size fits one node."""
    samples = {
        "NUMBER": "123456.789",
        "INTEGER": "123456",
        "HEX8": "0a1b2c3d",
        "NAME": "tx_external_share",
        "NAMES": "tx_syn_pps,tx_external_share",
        "LIMITS": "cap,vif-pps/syn",
        "WORD": "0.1.0",
        "NETWORKS": "10.0.0.0/8,2001:db8::/32",
        "DOMIDS": "1,32751",
        "NUMBERS": "1.667,0",
        "PEER": "2001:db8::1,tcp,443,123456.5,12.5",
    }
    for entry in CONTRACT.entries.values():
        if not entry.kind:
            continue
        fields = {
            name: samples.get(values) or values.strip('("').partition('"')[0]
            for name, values in entry.fields.items()
        }
        assert all(is_value(entry.fields[name], text) for name, text in fields.items())
        message = messages.parse(messages.encode(entry.kind, messages.MAX_SEQ, fields), entry.kind)
        assert message.fields == fields


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ("NUMBER", "-1"),
        ("NUMBER", "1e3"),
        ("NUMBER", ""),
        ("INTEGER", "1.5"),
        ("HEX8", "0A1B2C3D"),
        ("NAMES", "a,,b"),
        ("LIMITS", "vif-pps/syn/ack"),
        ("NETWORKS", "10.0.0.1"),
        ("DOMIDS", "1,-2"),
        ("NUMBERS", "1,x"),
        ("PEER", "10.0.0.1,tcp,70000,1,1"),
        ("PEER", "10.0.0.1,tcp,443,1"),
        ('("1" | "2")', "3"),
    ],
)
def test_what_the_page_does_not_allow_is_seen(values: str, text: str) -> None:
    assert not is_value(values, text)


@pytest.mark.xenstored
def test_a_live_store_is_held_against_the_page(xenstored: Xenstored) -> None:
    xenstored.create(5)
    dom0 = StoreClient(xenstored.socket)
    dom0.mkdir(paths.absolute(5, paths.DOWN_DIR))
    dom0.set_permissions(paths.absolute(5, paths.DOWN_DIR), ["n0", "r5"])
    order: dict[str, str | float] = {"level": "2", "level1_s": 5.0, "networks": "10.0.0.0/8"}
    dom0.write(paths.absolute(5, paths.DOWN_ORDER), messages.encode("order", 1, order))
    history: dict[str, str | float] = {"learnt": "0", "tx_syn_pps": 50.0}
    dom0.write(paths.absolute(5, paths.DOWN_HISTORY), messages.encode("history", 2, history))
    guest = xenstored.guest(5)
    guest.write(
        paths.UP_REPORT, messages.encode("report", 1, {"boot": "0a1b2c3d", "level": "1", "tx_pps": 1.5})
    )
    assert violations(listing(xenstored)) == []

    dom0.set_permissions(paths.absolute(5, paths.DOWN_ORDER), ["b0"])
    dom0.write(paths.absolute(5, paths.DOWN_HISTORY), messages.encode("history", 2, {"vif_tx_pps": 1.0}))
    guest.write(paths.UP_REPORT, b"xw1 report seq=1 level=3 new_field=1")
    guest.write("data/xenwarden/other", b"")
    found = violations(listing(xenstored))
    assert len(found) == 5, found
    dom0.close()


def listing(xenstored: Xenstored) -> str:
    """Return the store as Xen's own tool prints it."""
    return subprocess.run(
        ["xenstore-ls", "-fp"],
        env={"PATH": "/usr/bin", "XENSTORED_PATH": xenstored.socket},
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    ).stdout
