# SPDX-License-Identifier: LGPL-2.1-or-later
"""`ci/bench GROUP… [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import table

if TYPE_CHECKING:
    from benchmarks.figures import Figure


def groups() -> list[str]:
    """Return the names of the groups that exist, from the files beside this one."""
    here = Path(__file__).parent
    others = {"baselines", "figures"}
    return sorted(path.stem for path in here.glob("[!_]*.py") if path.stem not in others)


def main() -> int:
    """Run the groups asked for; exit 0 if every goal is met, 1 if not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="ci/bench",
        description="Measure a group of figures, each beside its peer or limit in the same run.",
        epilog="example: ./ci/bench channel --json channel.json",
    )
    parser.add_argument("group", nargs="+", choices=groups(), metavar="GROUP", help=", ".join(groups()))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a JSON list")
    parser.add_argument("--full", action="store_true", help="verdicts: 1,000 VM-days in place of 100")
    parser.add_argument("--profiles", type=Path, metavar="FILE", help="verdicts: VMs of other profiles")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="verdicts: draw them as SVG")
    args = parser.parse_args()
    options = {"full": args.full, "profiles": args.profiles, "picture": args.picture}
    if any(options.values()) and "verdicts" not in args.group:
        parser.error("--full, --profiles and --picture are for the group verdicts")
    if args.profiles and not args.profiles.is_file():
        parser.error(f"there is no file {args.profiles}")
    for file in (args.json, args.picture):
        if file and not file.absolute().parent.is_dir():
            parser.error(f"there is no directory {file.absolute().parent}")
    figures: list[Figure] = []
    for name in args.group:
        print(f"measuring {name}", file=sys.stderr)
        own = {key: value for key, value in options.items() if value} if name == "verdicts" else {}
        figures += importlib.import_module(f"benchmarks.{name}").run(**own)
    print(table(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(figure["met"] for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
