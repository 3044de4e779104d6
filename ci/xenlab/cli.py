# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of ci/lab."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from xenlab import accel, keep, layers, load, progress, qemu, results, runner, shell, store
from xenlab.errors import LabError, ScenarioError
from xenlab.machine import Lab

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SCENARIOS = store.REPO / "ci" / "scenarios"
EPILOG = """examples:
  ./ci/lab setup                                      build the images
  ./ci/lab run ci/scenarios/demo.yaml --json r.json   run one scenario
  ./ci/lab run --all --junit r.xml                    run all of ci/scenarios
  ./ci/lab run --all --patience 4                     the same on a machine that is slow or busy
  ./ci/lab shell                                      a shell in dom0 with three guests beside it
exit status: 0 all passed, 1 something failed, 2 wrong usage or a bad scenario file, 130 interrupted
How to write a scenario: ci/README.md"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: arguments.do(arguments))


def guarded(do: Callable[[], int]) -> int:
    """Call `do` and return its exit status; failures become sentences, signals a clean end."""
    # A shell starts what it puts in the background with SIGINT ignored: here it always ends the lab.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    try:
        return do()
    except ScenarioError as e:
        sys.stderr.write(f"{e.message}\n")
        return 2
    except LabError as e:
        if e.output:
            sys.stderr.write(f"{e.output.rstrip()}\n")
        sys.stderr.write(f"ci/lab: {e.message}\n")
        if e.hint:
            sys.stderr.write(f"  {e.hint}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("ci/lab: interrupted; the machine is down and nothing is left behind\n")
        return 130


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    # As an exception, so that everything is cleaned up on the way out.
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ci/lab",
        description="Boot real Xen in QEMU with guests and run scenarios on it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    setup = verbs.add_parser("setup", help="build the images, or what of them is not there yet")
    setup.set_defaults(do=_setup)

    run = verbs.add_parser("run", help="run scenarios")
    run.add_argument("scenarios", nargs="*", type=Path, metavar="SCENARIO.yaml")
    run.add_argument("--all", action="store_true", help="run all of ci/scenarios")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the result; several scenarios: a list")
    run.add_argument("--junit", type=Path, metavar="FILE", help="write the result as JUnit XML")
    run.add_argument("--keep", action="store_true", help="leave the last machine running for `ci/lab shell`")
    run.add_argument(
        "--patience",
        type=_patience,
        default=1.0,
        metavar="N",
        help="multiply each deadline of the scenarios by N, for a slow or busy machine (default: 1)",
    )
    add_accel(run)
    run.set_defaults(do=_run)

    listing = verbs.add_parser("list", help="list the scenarios of ci/scenarios")
    listing.set_defaults(do=_list)

    sh = verbs.add_parser("shell", help="a shell in dom0: of the kept machine, else of a new one")
    sh.add_argument(
        "scenario", nargs="?", type=Path, metavar="SCENARIO.yaml", help="whose host and guests to boot"
    )
    add_accel(sh)
    sh.set_defaults(do=_shell)

    clean = verbs.add_parser("clean", help="end a kept machine, remove images and snapshots")
    clean.set_defaults(do=_clean)
    return parser


def add_accel(parser: argparse.ArgumentParser) -> None:
    """Add `--accel` to a command that boots a machine."""
    parser.add_argument(
        "--accel",
        choices=("auto", "tcg", "kvm"),
        default="auto",
        help="auto: KVM where Xen boots with it, else TCG, which works everywhere (default: auto)",
    )


def _patience(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 100")
    return number


def _setup(_arguments: argparse.Namespace) -> int:
    layers.get()
    progress.say(f"images are ready in {store.cache_dir()}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    paths = list(arguments.scenarios)
    if arguments.all:
        paths += sorted(SCENARIOS.glob("*.yaml"))
    if not paths:
        sys.stderr.write("ci/lab run: name a scenario file, or --all (ci/lab list shows what there is)\n")
        return 2
    for path in (arguments.json, arguments.junit):
        if path and not path.absolute().parent.is_dir():
            sys.stderr.write(f"ci/lab run: there is no directory {path.absolute().parent}\n")
            return 2
    # All files first: a mistake in the last one is told before the first machine boots.
    scenarios = [load.load(path) for path in paths]
    outcomes = []
    for i, scenario in enumerate(scenarios):
        kept = arguments.keep and i == len(scenarios) - 1
        if kept:
            keep.end()
        outcome, lab = runner.run(
            scenario, accelerator=arguments.accel, patience=arguments.patience, keep=kept
        )
        outcomes.append(outcome)
        # After each: whoever ends the run early has the results so far.
        if arguments.json:
            results.write_json(arguments.json, outcomes, as_list=len(scenarios) > 1)
        if arguments.junit:
            results.write_junit(arguments.junit, outcomes)
        if lab:
            keep.keep(lab)
        word = "FAILED" if outcome.failures else "passed"
        print(f"{scenario.name}: {word} ({outcome.timings['total_s']:.0f} s)", flush=True)
        for failure in outcome.failures:
            print(f"  {failure}", flush=True)
    return 1 if any(o.failures for o in outcomes) else 0


def _list(_arguments: argparse.Namespace) -> int:
    for path in sorted(SCENARIOS.glob("*.yaml")):
        scenario = load.load(path)
        guests = [f"{g.name} ({g.type}{'' if g.agent else ', no agent'})" for g in scenario.machine.guests]
        print(f"{scenario.name}: {scenario.description}")
        print(f"    guests: {', '.join(guests)}")
        print(f"    file: {os.path.relpath(path)}")
    return 0


def _shell(arguments: argparse.Namespace) -> int:
    if arguments.scenario is None and (link := keep.connect()):
        return shell.interactive(link)
    scenario = load.load(arguments.scenario or SCENARIOS / "demo.yaml")
    images = layers.get()
    with Lab(scenario.machine, images, accel.choose(arguments.accel, images, scenario.machine)) as lab:
        lab.start()
        return shell.interactive(lab.link)


def _clean(_arguments: argparse.Namespace) -> int:
    keep.end()
    cache = store.cache_dir()
    for path in cache.iterdir():
        if path.name == "runs":
            with store.locked("runs"):
                qemu.sweep(path)
        elif path.name != "locks":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    progress.say(f"removed images and snapshots from {cache}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
