# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tell what goes on, with the time since the start. To standard error: standard output is for results."""

from __future__ import annotations

import sys
import time

_START = time.monotonic()


def say(text: str) -> None:
    """Print one line of progress."""
    elapsed = time.monotonic() - _START
    sys.stderr.write(f"[{int(elapsed) // 60:2d}:{elapsed % 60:04.1f}] {text}\n")
    sys.stderr.flush()
