# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden report`: the time that is meant, and the file."""

from __future__ import annotations

import os
import re
from datetime import datetime

from xenwarden_host.cli.page import page
from xenwarden_host.control.client import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DEFAULT_S = 7200  # as long as the daemon keeps signals


def since(text: str | None, now_unix_s: float) -> int:
    """Return the time that `--since` means: `90s`, `30m`, `2h`, `7d` ago, or a date and time.

    Raises:
        ValueError: it means none that has been; the sentence says what was expected.
    """
    if text is None:
        return int(now_unix_s) - _DEFAULT_S
    ago = re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII)
    if ago:
        return int(now_unix_s) - int(ago[1]) * _UNITS_S[ago[2]]
    try:
        then = int(datetime.fromisoformat(text).timestamp())  # without a zone it is local time
    except (ValueError, OverflowError):
        raise ValueError(
            f"--since does not understand {text!r}: say 30m, 2h, 7d, or 2026-01-31 14:00"
        ) from None
    if then > now_unix_s:
        raise ValueError(f"--since {text!r} has not been yet")
    return then


def write(data: dict[str, Any], path: str, *, whole: bool) -> None:
    """Write the page for its owner alone: it tells much of a VM.

    Raises:
        RefusedError: the file cannot be written.
    """
    text = page(data, whole=whole)
    try:
        with open(
            path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)
        ) as file:
            file.write(text)
    except OSError as error:
        raise RefusedError(f"cannot write {path}: {error.strerror}", None) from None
