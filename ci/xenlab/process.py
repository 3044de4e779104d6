# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run programs so that none of them outlives the lab."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from xenlab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PR_SET_PDEATHSIG = 1
# Namespaces of their own: whatever ends a program, no child and no mount of it stays. Only root may.
CONTAINED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_LIBC = ctypes.CDLL(None)
_running: set[subprocess.Popen[str]] = set()


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends; for `preexec_fn`."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def command(argv: Sequence[str | Path], what: str, hint: str = "", cwd: Path | None = None) -> str:
    """Run `argv` and return its output. LabError with the output's end where it fails."""
    if shutil.which(str(argv[0])) is None:
        raise LabError(f"{argv[0]} is not installed.", "Run ./ci/setup --lab.")
    process = subprocess.Popen(
        [*(CONTAINED if os.geteuid() == 0 else ()), *(str(a) for a in argv)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent,  # noqa: PLW1509  -- one system call, safe beside threads
    )
    _running.add(process)
    try:
        output, _ = process.communicate()
    except BaseException:
        process.kill()
        process.communicate()  # until the last child has gone too, and writes no more
        raise
    finally:
        _running.discard(process)
    if process.returncode:
        raise LabError(f"{what} failed (exit status {process.returncode}).", hint, output[-3000:])
    return output


def stop_all() -> None:
    """Kill what other threads run by `command`: they then fail instead of being waited for."""
    for process in list(_running):
        process.kill()
