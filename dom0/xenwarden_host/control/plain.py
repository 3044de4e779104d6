# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from xenwarden_host.records import LimitKey


def plain(value: Any) -> Any:
    """Return dicts, lists, text and numbers for a record and what it holds; limit keys in their text form."""
    if isinstance(value, LimitKey):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
