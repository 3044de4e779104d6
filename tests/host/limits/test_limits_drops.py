# SPDX-License-Identifier: LGPL-2.1-or-later
"""What packet limits dropped, as `tc -s -j` tells it."""

from __future__ import annotations

import json

import pytest

from xenwarden_host.limits import tc


def action(index: int, drops: int) -> dict[str, object]:
    return {
        "order": 0, "kind": "police", "index": index, "pkts_rate": 20, "pkts_burst": 4,
        "stats": {"bytes": 8400, "packets": 200, "drops": drops, "overlimits": drops, "requeues": 0},
    }  # fmt: skip


def test_drops_of_all_classes_of_a_domain_are_added_up() -> None:
    base = 0x7800_0000
    actions = [
        action(base | 7 << 4 | 0, 100),
        action(base | 7 << 4 | 2, 11),
        action(base | 9 << 4 | 1, 5),
        action(base | 7 << 4 | 8, 5000),  # what was to reach domain 7
        action(12, 777),  # an admin's own
    ]
    said = json.dumps([{"total acts": len(actions)}, {"actions": actions}])
    assert tc.parse_drops(said) == {7: 111, 9: 5}


@pytest.mark.parametrize("said", ["", "[]", "[{}]\n"])
def test_no_limits_dropped_nothing(said: str) -> None:
    assert tc.parse_drops(said) == {}


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match=r".*"):
        tc.parse_drops("Error: nonsense")
