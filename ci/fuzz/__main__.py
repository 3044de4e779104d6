# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run one of the fuzzers: `python -m fuzz channel|collectors [SECONDS | keep]`.

The module of that name has `check`, which takes one input, `CORPUS`, `MAX_INPUT` and, where it has inputs of
its own to begin with, `seeds`. libFuzzer leads by what of our code an input reaches.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

from fuzz import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType

    Tracer = Callable[[FrameType, str, object], "Tracer | None"]
    Check = Callable[[bytes], None]

OURS = ["xenwarden_channel", "xenwarden_guest", "xenwarden_host.daemon.guests"]


def main() -> None:
    """Fuzz for so many seconds, or with `keep` renew the corpus."""
    name, word = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    work = ROOT / ".cache" / "fuzz" / name
    work.mkdir(parents=True, exist_ok=True)
    if word == "keep":
        keep(importlib.import_module(f"fuzz.{name}"), work)
        return
    with atheris.instrument_imports(include=OURS):
        target = importlib.import_module(f"fuzz.{name}")
    target.CORPUS.mkdir(exist_ok=True)
    for number, data in enumerate(getattr(target, "seeds", tuple)()):
        (work / f"seed-{number}").write_bytes(data)
    arguments = [
        sys.argv[0],
        f"-max_len={target.MAX_INPUT}",
        "-timeout=5",
        "-rss_limit_mb=512",
        f"-max_total_time={int(word)}",
        f"-dict={Path(__file__).with_name(name)}.dict",
        f"-artifact_prefix={work}/",
        str(work),
        str(target.CORPUS),
    ]
    atheris.Setup(arguments, target.check)
    atheris.Fuzz()


def keep(target: ModuleType, work: Path) -> None:
    """Renew the corpus: of all inputs, shortest first, those that go a way through the code not gone before.

    libFuzzer's own merge keeps ten times as many, for counts of loops that say little here.
    """
    known = {path.read_bytes() for directory in (work, target.CORPUS) for path in directory.iterdir()}
    gone: set[tuple[str, int, int]] = set()
    kept = []
    for data in sorted(known, key=lambda data: (len(data), data)):
        ways = steps(target.check, data)
        if ways - gone:
            gone |= ways
            kept.append(data)
    for path in target.CORPUS.iterdir():
        path.unlink()
    for data in kept:
        (target.CORPUS / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{len(kept)} inputs, {sum(map(len, kept))} bytes")


def steps(check: Check, data: bytes) -> set[tuple[str, int, int]]:
    """Return the steps from line to line that one input takes through our code."""
    found: set[tuple[str, int, int]] = set()
    last = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Tracer | None:
        nonlocal last
        if "xenwarden_" not in frame.f_code.co_filename:
            return None
        if event == "line":
            found.add((frame.f_code.co_filename, last, frame.f_lineno))
            last = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return found


main()
