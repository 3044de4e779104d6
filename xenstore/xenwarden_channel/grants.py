# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a VM can ask more of, and the reasons that dom0's answer can give."""

from __future__ import annotations

# what: unit of `more`
RESOURCES = {"memory": "kB", "vcpus": "vCPUs", "weight": "units of weight"}

OUTCOMES = ("granted", "denied", "expired")

REASONS = {
    "in-part": "granted, but less than was asked for: one step, or up to the maximum",
    "suspicion": "the VM is watched, contained or protected",
    "too-soon": "the last request was decided a moment ago",
    "limited": "a limit stands on this resource of the VM",
    "not-needed": "the VM does not use most of what it has, or does not report that it does",
    "maximum": "the VM has all that policy or its configuration allow",
    "host-full": "the host has no more to give",
    "not-allowed": "policy or the kill switch grants this VM nothing",
    "not-here": "the host cannot change this resource of the VM",
    "failed": "the host was to change it and did not",
}
