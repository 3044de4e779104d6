# SPDX-License-Identifier: LGPL-2.1-or-later
"""Amounts as `xl` takes them, with its traps."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_host.cli import amounts


@pytest.mark.parametrize(
    ("text", "bps"),
    [
        ("10Mb/s", 10_000_000),
        ("10MB/s", 80_000_000),  # B is bytes
        ("250KB/s", 2_000_000),
        ("1Gb/s", 10**9),
        ("8b/s", 8),
        ("10Mb/s@50ms", 10_000_000),
        ("10Mb/s@50000us", 10_000_000),
    ],
)
def test_rate_is_read_as_xl_reads_it(text: str, bps: int) -> None:
    assert amounts.orders({"vif_rate": text}) == {"vif-rate": bps}


@pytest.mark.parametrize(
    "text",
    [
        *("10Mb", "10mb/s", "10kb/s", "10 Mb/s", "Mb/s", "-1Mb/s", "0Mb/s", "1.5Mb/s", "10Mb/S", "10Mbit"),
        *("10Mb/s@", "10Mb/s@20ms", "10Mb/s@50", "10Mb/s@50xs", "٣Mb/s"),
    ],
)
def test_what_is_no_rate_here_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|interval"):
        amounts.orders({"vif_rate": text})


def test_bare_interval_is_seconds_and_told() -> None:
    with pytest.raises(ValueError, match=r"50000000 us.*seconds"):
        amounts.vif_rate("10Mb/s@50")


@pytest.mark.parametrize(
    ("text", "kb"), [("512", 512 << 10), ("512m", 512 << 10), ("1G", 1 << 20), ("64k", 64), ("4096b", 4)]
)
def test_memory_is_mib_unless_said_otherwise(text: str, kb: int) -> None:
    assert amounts.memory_kb(text) == kb


@pytest.mark.parametrize("text", ["", "0", "100b", "m", "5mb", "1.5g"])
def test_no_memory_size(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        amounts.memory_kb(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400)]
)
def test_time_is_seconds_unless_said_otherwise(text: str, seconds: int) -> None:
    assert amounts.span_s(text) == seconds


def test_all_options_become_keys_and_none_takes_back() -> None:
    given = {
        "cap": "0", "weight": "64", "vif_in": "8Mb/s", "vif_pps": "syn=5,icmp=none", "vbd_io": "1MB/s",
        "memory": "none", "vcpus": "2", "pause": "", "for": "5m", "json": "",
    }  # fmt: skip
    assert amounts.orders(given) == {
        "cap": 0, "weight": 64, "vif-in": 8_000_000, "vif-pps/syn": 5, "vif-pps/icmp": 0, "vbd-io": 1_000_000,
        "memory": 0, "vcpus": 2, "pause": 1,
    }  # fmt: skip
    assert set(amounts.orders({"vif_pps": "7"}).values()) == {7}
    # Without ARP a VM is cut off: that is limited by name, and what was is lifted with the rest.
    assert "vif-pps/arp" not in amounts.orders({"vif_pps": "7"})
    assert amounts.orders({"vif_pps": "arp=7"}) == {"vif-pps/arp": 7}
    assert amounts.orders({"vif_pps": "none"})["vif-pps/arp"] == 0


@given(
    st.sampled_from(["cap", "weight", "vif_rate", "vif_in", "vif_pps", "vbd_io", "memory", "vcpus"]),
    st.text(alphabet="0123456789KMGbBmus/@=,syncp noe-.", max_size=14),
)
def test_any_text_is_an_order_or_a_sentence(option: str, text: str) -> None:
    with contextlib.suppress(ValueError):
        assert all(type(value) is int and value >= 0 for value in amounts.orders({option: text}).values())
