# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden report`: the time that is meant, and the file."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime

from xenwarden_host.cli.page import page
from xenwarden_host.control.client import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from xenwarden_host.control.client import ControlClient

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DEFAULT_S = 7200  # as long as the daemon keeps signals


def since(text: str | None, now_unix_s: float) -> int:
    """Return the time that `--since` means: `90s`, `30m`, `2h`, `7d` ago, or a date and time.

    Raises:
        RefusedError: it means none.
    """
    if text is None:
        return int(now_unix_s) - _DEFAULT_S
    ago = re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII)
    if ago:
        return int(now_unix_s) - int(ago[1]) * _UNITS_S[ago[2]]
    try:
        return int(datetime.fromisoformat(text).timestamp())  # without a zone it is local time
    except (ValueError, OverflowError):
        raise RefusedError(
            f"--since does not understand {text!r}", "as 30m, 2h, 7d, or 2026-01-31 14:00"
        ) from None


def fetch(client: ControlClient, domain: str, since_text: str | None) -> dict[str, Any]:
    """Return what the page is made from."""
    answer: dict[str, Any] = client.ask("report", vm=domain, since_unix_s=since(since_text, time.time()))
    return answer


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
