# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's cache: what is built is kept under a key of what went in, complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from xenlab import progress
from xenlab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def cache_dir() -> Path:
    """Return the cache's directory, made if need be: `$XENWARDEN_CACHE`, else `.cache/lab` of the tree."""
    path = Path(os.environ.get("XENWARDEN_CACHE") or REPO / ".cache" / "lab").absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise LabError(
            f"The cache {path} cannot be made: {e.strerror}.", "Set XENWARDEN_CACHE to a directory of yours."
        ) from e
    return path


def key_of(parts: Iterable[object], files: Iterable[Path] = ()) -> str:
    """Return 16 hex digits that stand for the parts (JSON values) and the files' names and bytes."""
    digest = hashlib.sha256(json.dumps(list(parts), sort_keys=True, default=str).encode())
    for path in sorted(files):
        digest.update(f"\0{path.name}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock `name`: two labs at once do not build the same thing twice."""
    locks = cache_dir() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another lab that has {name} in hand")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(kind: str, key: str, make: Callable[[Path], None], *, keep: int = 2) -> Path:
    """Return the directory of `kind` and `key`, made by `make(directory)` where it is not there yet.

    The directory appears under its name only when `make` returned; what a killed build left is removed.
    Only the `keep` of this kind that were used last stay.
    """
    path = cache_dir() / f"{kind}-{key}"
    with locked(f"{kind}-{key}"):
        _sweep()
        if not path.is_dir():
            # The name tells whose it is, so that the half-done work of a killed process is known as such.
            work = Path(tempfile.mkdtemp(prefix=f".new-{os.getpid()}-", dir=cache_dir()))
            try:
                make(work)
                work.chmod(0o755)
                work.rename(path)
            except OSError as e:
                if e.errno == errno.ENOSPC:
                    raise LabError(
                        f"The disk is full while making {kind} in {cache_dir()}.",
                        "Free some gigabytes, run ./ci/lab clean, or set XENWARDEN_CACHE to another disk.",
                    ) from e
                raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
        os.utime(path)
        kept = sorted(cache_dir().glob(f"{kind}-*"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in kept[keep:]:
            shutil.rmtree(old, ignore_errors=True)
    return path


def _sweep() -> None:
    for path in cache_dir().glob(".new-*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            shutil.rmtree(path, ignore_errors=True)
