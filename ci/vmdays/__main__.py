# SPDX-License-Identifier: LGPL-2.1-or-later
"""`PYTHONPATH=ci python -m vmdays --seed 1 -o day.jsonl`: a host's day as a recording, and its truth."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from vmdays.generate import PROFILES, host_day, profiles


def main() -> None:
    """Write the recording, and beside it `.truth.json`: the list of attacks in it."""
    parser = argparse.ArgumentParser(prog="python -m vmdays", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profiles", type=Path, default=PROFILES, metavar="FILE")
    parser.add_argument("--vms", type=int, default=5)
    parser.add_argument("--interval", type=float, default=30, metavar="SECONDS")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    day = host_day(args.seed, profiles(args.profiles), vms=args.vms, interval_s=args.interval)
    args.output.write_bytes(b"\n".join(day.lines) + b"\n")
    truth = [asdict(episode) for episode in day.episodes]
    args.output.with_suffix(".truth.json").write_text(json.dumps(truth, indent=1) + "\n")


if __name__ == "__main__":
    main()
