# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take out of a recording what tells whose it is. Addresses are in none: the core decides on none."""

from __future__ import annotations

import json
from uuid import UUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Anonymiser:
    """Number VMs in the order in which they come; the day becomes the first of 1970.

    What it was replays the same, but for entries of `vms` in a policy that go by name or UUID.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._day_s = 0

    def line(self, line: str) -> str:
        """Return the line without names, UUIDs, users and date."""
        data: dict[str, Any] = json.loads(line)
        if "unix_s" in data:
            self._day_s = self._day_s or int(data["unix_s"])
            data["unix_s"] -= self._day_s
        if "vm" in data:
            number = self._numbers.setdefault(data["vm"], len(self._numbers) + 1)
            data["vm"] = str(UUID(int=number))
            if "name" in data:
                data["name"] = f"vm{number}"
            if "release" in data:
                data["release"] = "operator"
            if "order" in data:
                data["order"]["who"] = "operator"
            if "answer" in data:
                data["answer"]["id"] = max(0, data["answer"]["id"] - self._day_s)
            case = data.get("state", {}).get("case")
            if case:
                case["ask_id"] = max(0, case["ask_id"] - self._day_s)
                for finding in case["findings"].values():
                    for evidence in finding["evidence"]:
                        evidence["text"] = evidence["signal"]  # it may name other VMs
        return json.dumps(data, separators=(",", ":"))
