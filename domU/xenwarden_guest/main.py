# SPDX-License-Identifier: LGPL-2.1-or-later
"""xenwarden-agent: the command line. Parsed by hand, since argparse costs 2.5 MB in every VM."""

from __future__ import annotations

import os
import sys
from stat import S_ISSOCK
from time import monotonic, sleep

from xenwarden_guest import __version__
from xenwarden_guest.collectors import Roots, xen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest import request

USAGE = """\
usage: xenwarden-agent [-v] [--root DIR] [--store PATH]
       xenwarden-agent --once [--json] | --explain
       xenwarden-agent request --memory +SIZE | --vcpus +N | --weight +N
                       [--wait SECONDS] [--json]
"""
HELP = """\
Report this VM's security and reliability signals to xenwarden in dom0, over XenStore.

  --once        measure for one second, print what is seen, write nothing
  --json        with --once: as JSON
  --explain     measure for one second, say which level that would be, and why
  --root DIR    take /proc and /sys from DIR
  --store PATH  XenStore's device or socket (default: /dev/xen/xenbus)
  -v            log each change of level
  --version     print the version
  -h, --help    print this

request: ask dom0 for more, and wait for its answer
  --memory +SIZE, --vcpus +N, --weight +N
                what and how much more; SIZE as 128M or 1G
  --wait SECONDS
                give up and withdraw the request after so long (default: 20)
  --json        print the answer as JSON
"""


class Options:
    """What the command line asks for."""

    __slots__ = ("explain", "json", "once", "request", "root", "store", "verbose")

    def __init__(self) -> None:
        self.once = self.json = self.explain = self.verbose = False
        self.request: request.Options | None = None
        self.root = "/"
        self.store = "/dev/xen/xenbus"


def parse(arguments: list[str]) -> Options:
    """Parse the command line.

    Raises:
        ValueError: wrong usage; the text says what.
        SystemExit: help or version was asked for and is printed.
    """
    options = Options()
    flags = {"--once": "once", "--json": "json", "--explain": "explain", "-v": "verbose"}
    values = {"--root": "root", "--store": "store"}
    left = list(arguments)
    if left[:1] == ["request"]:
        from xenwarden_guest import request  # noqa: PLC0415  of no use to the service, and it costs memory

        del left[0]
        options.request = request.Options()
        values |= request.VALUES
    while left:
        word, equals, value = left.pop(0).partition("=")
        if word in values:
            if not equals:
                if not left:
                    raise ValueError(f"{word} needs a value")
                value = left.pop(0)
            if options.request is not None and values[word] not in ("root", "store"):
                options.request.take(values[word], value)
            else:
                setattr(options, values[word], value)
        elif word in flags and not equals:
            setattr(options, flags[word], True)
        elif word in ("-h", "--help"):
            print(USAGE + "\n" + HELP, end="")
            raise SystemExit(0)
        elif word == "--version":
            print(f"xenwarden-agent {__version__}")
            raise SystemExit(0)
        else:
            raise ValueError(f"unknown argument {word}")
    if options.request is not None:
        if not options.request.what or options.once or options.explain or options.verbose:
            raise ValueError("request takes one of --memory, --vcpus and --weight, and --wait and --json")
    elif options.json and not options.once:
        raise ValueError("--json goes with --once or request")
    if options.once and options.explain:
        raise ValueError("--once or --explain, not both")
    return options


def main() -> int:
    """Run `xenwarden-agent`; return 0, 1 for a failure, 2 for wrong usage or a machine that is no Xen VM.

    A request that was denied returns 3, one that expired 4.
    """
    try:
        options = parse(sys.argv[1:])
    except ValueError as error:
        print(f"xenwarden-agent: {error}\n{USAGE}", end="", file=sys.stderr)
        return 2
    roots = Roots(options.root)
    if not xen.on_xen(roots):
        print(
            f"xenwarden-agent: not on Xen ({roots.sys}/hypervisor/type does not say xen); "
            "run it in a Xen guest or in dom0",
            file=sys.stderr,
        )
        return 2
    management = xen.is_management(roots)
    if options.once:
        return _once(roots, management=management, as_json=options.json)
    if options.request is not None:
        return _request(options, options.request, management=management)
    if options.explain:
        return _explain(roots, options.store, management=management)

    from xenwarden_guest.agent import Agent  # noqa: PLC0415  after the checks: they must not cost memory
    from xenwarden_guest.channel import Channel  # noqa: PLC0415

    try:
        Agent(
            roots,
            Channel(options.store, _home(options.store, management=management)),
            management=management,
            verbose=options.verbose,
        ).run()
    except KeyboardInterrupt:
        return 130


def _home(store: str, *, management: bool) -> str:
    """Return what goes before relative paths: over a socket, the daemon does not know whose they are."""
    try:
        is_socket = S_ISSOCK(os.stat(store).st_mode)  # noqa: PTH116  pathlib costs 1 MB in the guest
    except OSError:
        return ""
    return "/local/domain/0/" if management and is_socket else ""


def _once(roots: Roots, *, management: bool, as_json: bool) -> int:
    from xenwarden_guest.agent import Sensor  # noqa: PLC0415

    sensor = Sensor(roots, management=management, now_s=monotonic())
    sleep(1.0)
    sample = sensor.finish(monotonic())
    if as_json:
        import json  # noqa: PLC0415  0.7 MB that only this needs

        print(json.dumps({
            "version": __version__,
            "management": management,
            "interval_s": round(sample.seconds, 3),
            "signals": {name: round(value, 3) for name, value in sample.signals.items()},
            "missing": sample.missing,
            "top_destinations": sample.dests,
            "top_sources": sample.sources,
        }, indent=2))  # fmt: skip
        return 0
    from xenwarden_channel.signals import SIGNALS  # noqa: PLC0415

    for name, value in sample.signals.items():
        _source, unit, meaning = SIGNALS[name]
        print(f"{name:<18} {value:>14.1f} {unit:<6} {meaning}")
    if sample.missing:
        print("missing: " + ", ".join(sample.missing))
    return 0


def _request(options: Options, wanted: request.Options, *, management: bool) -> int:
    from xenwarden_channel.errors import StoreError  # noqa: PLC0415
    from xenwarden_guest.request import run  # noqa: PLC0415

    try:
        return run(options.store, _home(options.store, management=management), wanted, as_json=options.json)
    except StoreError as error:
        print(f"xenwarden-agent: XenStore: {error}", file=sys.stderr)
        return 1


def _explain(roots: Roots, store: str, *, management: bool) -> int:
    from xenwarden_channel import paths  # noqa: PLC0415
    from xenwarden_channel.grants import RESOURCES  # noqa: PLC0415
    from xenwarden_guest import level  # noqa: PLC0415
    from xenwarden_guest.agent import Sensor, read_order, read_rules  # noqa: PLC0415
    from xenwarden_guest.channel import Channel  # noqa: PLC0415
    from xenwarden_guest.vrem.pressure import Rules, lacks  # noqa: PLC0415

    channel = Channel(store, _home(store, management=management))
    history: dict[str, float] = {}
    order, rules = level.Order(), Rules()
    if channel.ready(monotonic()):
        message = channel.read(paths.DOWN_HISTORY, "history", monotonic())
        if message is not None:
            history = message.numbers()
            print(
                "history: "
                + ("learnt" if history.pop("learnt", 0) else "policy's priors")
                + f", {len(history)} limits"
            )
        message = channel.read(paths.DOWN_ORDER, "order", monotonic())
        if message is not None:
            order, rules = read_order(message), read_rules(message)
            print(f"order: level {order.level}")
            for what, more in rules.more.items():
                print(f"after {rules.after_s:g} s without enough {what} it asks for {more} {RESOURCES[what]}")
    else:
        print(f"XenStore: {channel.trouble}")
    if not history:
        print("no history from dom0 yet: nothing can be an anomaly, level 1 unless ordered")
    sensor = Sensor(roots, management=management, now_s=monotonic())
    sleep(1.0)
    sample = sensor.finish(monotonic())
    state = level.decide(level.State(), sample.signals, history, order, monotonic())
    for name, factor in level.over_history(sample.signals, history).items():
        print(
            f"{name} {sample.signals[name]:.1f} is {factor:.1f} times its usual limit of {history[name]:.1f}"
        )
    short = lacks(sample.signals, ())
    print("short of " + ", ".join(short) if short else "short of nothing")
    print(f"level {state.level}" + (f", because of {state.why}" if state.why else ", nothing unusual"))
    channel.close()
    return 0
