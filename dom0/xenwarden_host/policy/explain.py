# SPDX-License-Identifier: LGPL-2.1-or-later
"""What holds for one VM, value by value, and where each came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.policy.load import dotted, leaves
from xenwarden_host.policy.model import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xenwarden_host.policy.model import Policy

_OF_ENTRIES = ("profile", "protect", "exempt", "fail_safe", "guarantee", "maximum", "self_asks")
# Of entries and profiles only what holds for the VM is shown.
_SHOWN_APART = ("vms", "profiles", "fail_safe")


def explain(policy: Policy, uuid: str, name: str) -> list[dict[str, Any]]:
    """Return `key`, `value` and `source` of all: first what an entry of `vms` can say, then the rest.

    A source is `built-in`, `file:line` or a node of XenStore.
    """
    own, sources = policy.vm(uuid, name), policy.vm_sources(uuid, name)
    rows = [
        (dotted(place), value, sources[dotted(place)])
        for place, value in _values({key: getattr(own, key) for key in _OF_ENTRIES})
    ]
    for signal, value in policy.profiles[own.profile].items():
        key = f"profiles.{own.profile}.upper.{signal}"
        if key not in policy.sources:
            key = f"profiles.{UNKNOWN}.upper.{signal}"
        rows.append((key, value, policy.sources[key]))
    rows += [
        (dotted(place), value, policy.sources[dotted(place)])
        for place, value in _values(policy.data)
        if place[0] not in _SHOWN_APART
    ]
    return [{"key": key, "value": value, "source": source} for key, value, source in rows]


def _values(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    for place in leaves(data):
        value: Any = data
        for key in place:
            value = value[key]
        if value != {}:
            yield place, value
