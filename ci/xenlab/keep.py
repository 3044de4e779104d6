# SPDX-License-Identifier: LGPL-2.1-or-later
"""One machine that outlives its run, for `ci/lab shell`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from xenlab import progress, store
from xenlab.link import Link

if TYPE_CHECKING:
    from xenlab.machine import Lab


def _mark() -> Path:
    return store.cache_dir() / "kept"


def keep(lab: Lab) -> None:
    """Leave `lab` running when this process ends."""
    lab.link.close()
    _mark().write_text(str(lab.run.path))
    progress.say("the machine is kept: ./ci/lab shell enters it, ./ci/lab clean or the next --keep ends it")


def connect() -> Link | None:
    """Return a line to the kept machine, None where there is none."""
    run = _run()
    return Link(run / "lab.sock") if run and _pid(run) else None


def end() -> None:
    """End the kept machine, if there is one, and remove its files."""
    run = _run()
    if run is None:
        return
    pid = _pid(run)
    if pid:
        os.kill(pid, signal.SIGKILL)
        while _pid(run):
            time.sleep(0.05)
    shutil.rmtree(run, ignore_errors=True)
    _mark().unlink()


def _run() -> Path | None:
    with contextlib.suppress(OSError):
        return Path(_mark().read_text())
    return None


def _pid(run: Path) -> int | None:
    """Return QEMU's pid while it runs: a pid alone may be another process's by now."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((run / "pid").read_text())
        if Path(f"/proc/{pid}/cwd").resolve() == run.resolve():
            return pid
    return None
