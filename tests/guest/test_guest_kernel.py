# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's side of VSEM, on real frames between two interfaces in a namespace (root only)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import frames
import pytest

ROOT = Path(__file__).parents[2]


def in_namespace(*arguments: str) -> Any:
    if os.geteuid():
        if os.environ.get("CI"):
            pytest.fail("needs root")
        pytest.skip("needs root")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/domU:{ROOT}/xenstore"}
    child = subprocess.run(
        ["unshare", "-n", "-m", sys.executable, Path(__file__).with_name("namespace_child.py"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(child.stdout)


@pytest.fixture(scope="module")
def seen() -> Any:
    return in_namespace("frames")


WAYS = ("sent", "received")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", frames.FRAMES)
def test_the_kernel_counts_each_frame_in_its_class(seen: Any, name: str, way: str) -> None:
    _frame, kind = frames.FRAMES[name]
    counted = kind != "other" and (kind, way) != ("arp", "received")
    direction = "tx" if way == "sent" else "rx"
    assert seen[f"{name}/{way}"]["classes"] == ({f"{direction}_{kind}": 1} if counted else {})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", frames.FRAMES)
def test_no_payload_arrives_in_user_space(seen: Any, name: str, way: str) -> None:
    found = seen[f"{name}/{way}"]
    assert not found["leaked"]
    for header in found["headers"]:
        raw = base64.b64decode(header)
        assert b"SECRET" not in raw
        assert frames.PAYLOAD[:2] not in raw


@pytest.mark.parametrize("way", WAYS)
def test_headers_do_arrive(seen: Any, way: str) -> None:
    with_peer = [
        name
        for name in frames.FRAMES
        if name not in ("lldp", "made-up type", "ipv4 no header", "ipv4 short header")
    ]
    assert [name for name in with_peer if not seen[f"{name}/{way}"]["headers"]] == []
    assert [name for name in with_peer if seen[f"{name}/{way}"]["readable"] != [False, True]] == []


def test_a_flood_to_one_destination_is_counted_exactly_and_named() -> None:
    (found,) = in_namespace("flood", "1", "1")
    assert found["syns_counted"] == found["syns"]
    assert found["counted"] == found["sent"]
    assert found["dests_estimated"] == found["dests"]


def test_many_destinations_are_estimated_from_the_sample() -> None:
    runs = in_namespace("flood", "4000", "5")
    for found in runs:
        assert found["syns_counted"] == found["syns"]
        assert found["top"] == "198.51.100.7"
        assert 0.3 < found["top_share"] < 0.7
    # Chance may have a loud peer hit the slice in one run, hardly in most.
    ratios = sorted(found["dests_estimated"] / found["dests"] for found in runs)
    assert 0.7 < ratios[2] < 1.4


def test_a_glance_leaves_few_packets_for_later() -> None:
    found = in_namespace("few")
    assert found["looked"] == [False, False, True, True]  # who has looked once in a report looks closely
    assert found["syns"] == 8


def test_a_report_without_packets_says_so() -> None:
    quiet = in_namespace("few")["quiet"]
    assert {"tx_syn_pps", "rx_udp_pps", "tx_arp_pps", "tx_dests", "rx_sources", "tx_pps"} <= quiet.keys()
    assert not any(quiet.values())


def test_an_interface_that_is_down_is_nothing_missing_and_counts_again_when_up() -> None:
    found = in_namespace("flap")
    assert found["failed_while_down"] == []
    assert found["syns_after"] == 1.0
    assert found["failed_after"] == []


def test_dom0_sees_on_order_what_each_domain_really_sends() -> None:
    found = in_namespace("looks")
    one, two = found["1"], found["2"]
    assert one["missing"] == two["missing"] == ""
    assert (one["tx_syn_pps"], one["rx_syn_pps"]) == (20, 10)  # the broadcast ones count, too
    assert (two["tx_syn_pps"], two["rx_syn_pps"]) == (10, 20)
    assert one["tx_dests"] == one["rx_sources"] == 1
    assert one["tx_top_share"] == 1
    assert found["3"]["missing"] == "interfaces"
    assert "tx_syn_pps" not in found["3"]
    assert found["let go"] == ["data/xenwarden/headers/2", "data/xenwarden/headers/3"]
    assert found["after"] == ["data/xenwarden/headers/1"]


def test_dom0_hears_at_whose_vif_an_address_is_claimed_and_asks_who_uses_it() -> None:
    found = in_namespace("arp")
    assert (found["failed"], found["life"], found["asked"]) == (False, False, True)
    last = found["told"][-1]
    by_domid = {
        domid: {name: float(last[name].split(",")[at]) for name in ("claims", "claimed")}
        for at, domid in enumerate(last["domids"].split(","))
    }
    # Of the second's address one a second, of dom0's address likewise, told to the second.
    assert by_domid["1"]["claims"] == pytest.approx(2, rel=0.5)
    assert by_domid["1"]["claimed"] == by_domid["2"]["claims"] == by_domid["0"]["claims"] == 0
    assert by_domid["2"]["claimed"] == by_domid["1"]["claims"]
    assert by_domid["0"]["claimed"] > 0
    assert (found["over"], found["wait"]) == (True, [1, 5])


def test_in_dom0_what_the_bridge_forwards_for_guests_is_not_dom0s_own() -> None:
    found = in_namespace("bridge")
    assert "xenbr0" in found["chosen"]
    assert not [name for name in found["chosen"] if name.startswith("vif")]
    for signal in ("tx_syn_pps", "rx_syn_pps", "tx_dests", "rx_sources"):
        assert found["forwarded"][signal] == 0
    assert found["own"]["rx_syn_pps"] == 3
    assert found["own"]["tx_syn_pps"] == 7
    assert found["own"]["rx_sources"] == found["own"]["tx_dests"] == 1
