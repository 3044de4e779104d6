# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each verb does: ask the daemon, print. Text and JSON come from the same answer."""

from __future__ import annotations

import json
import signal
import sys

from xenwarden_host import __version__
from xenwarden_host.cli.output import clock_time, colour, figure, printable, span, table
from xenwarden_host.control.client import ControlClient, UnreachableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from xenwarden_host.cli.parser import Parsed


def _client(parsed: Parsed) -> ControlClient:
    socket_path = parsed.options.get("socket")
    return ControlClient(socket_path) if socket_path else ControlClient()


def _domain(parsed: Parsed) -> dict[str, str]:
    return {"vm": parsed.arguments[0]} if parsed.arguments else {}


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _note(sentence: str) -> None:
    print(f"xenwarden: {printable(sentence)}", file=sys.stderr)


def _limits_table(rows: list[dict[str, Any]], *, named: bool) -> str:
    header = ("Name",) if named else ()
    return table(
        (*header, "Limit", "Value", "State", "Before", "Owner", "Why"),
        [
            (
                *((row["name"],) if named else ()),
                row["kind"],
                row["value"],
                row["state"],
                row["original"] if row["original"] is not None else "none",
                row["owner"],
                f"{row['why']} ({row['detail']})" if row["detail"] else row["why"],
            )
            for row in rows
        ],
    )


def run_list(parsed: Parsed) -> int:
    """Print all VMs."""
    answer = _client(parsed).ask("list")
    if "json" in parsed.options:
        _print_json(answer)
        return 0
    print(
        table(
            ("Name", "ID", "Type", "Level", "State", "Verdict", "Agent", "Limits"),
            [
                (
                    vm["name"],
                    vm["domid"],
                    vm["type"],
                    vm["level"],
                    vm["state"],
                    vm["verdict"],
                    vm["agent"],
                    " ".join(vm["limits"]) or "-",
                )
                for vm in answer["vms"]
            ],
        )
    )
    if "verbose" in parsed.options:
        daemon = answer["daemon"]
        errors = " ".join(f"{where}={count}" for where, count in daemon["errors"].items()) or "none"
        print(
            f"\nxenwardend {daemon['version']}, up {span(daemon['up_s'])}, "
            f"{daemon['cpu_s']:.1f} CPU seconds, {daemon['rss_kb']} kB, "
            f"{daemon['ticks']} ticks, XenStore {daemon['store']}, errors {errors}"
        )
    for notice in answer["notices"]:
        _note(notice)
    return 0


def run_show(parsed: Parsed) -> int:
    """Print all of one VM."""
    vm = _client(parsed).ask("show", **_domain(parsed))
    if "json" in parsed.options:
        _print_json(vm)
        return 0
    verdict = vm["verdict"] or "none yet"
    lines = [
        ("Name", vm["name"]),
        ("ID", vm["domid"]),
        ("UUID", vm["uuid"]),
        ("Type", vm["type"]),
        ("Level", vm["level"]),
        ("State", vm["state"]),
        ("Verdict", f"{verdict}, and a victim too" if vm["also_victim"] else verdict),
        ("Why", vm["why"] or "-"),
    ]
    agent = vm["agent"]
    if agent is None:
        lines.append(("Agent", "never reported"))
    else:
        cost = f"{agent['rss_kb']} kB, {agent['cpu_s']:.1f} CPU seconds in {span(agent['wall_s'])}"
        told = f"{agent['state']}, version {agent['version'] or '?'}, last report {span(agent['age_s'])} ago"
        lines.append(("Agent", f"{told}, {cost}"))
    for label, value in lines:
        print(f"{label:<8} {colour(printable(str(value)))}")
    _print_evidence(vm["evidence"])
    if vm["limits_now"]:
        print("\n" + _limits_table(vm["limits_now"], named=False))
    if vm["signals"]:
        rows = [
            (name, figure(item["value"]), figure(item["usual"]), item["unit"], item["source"])
            for name, item in vm["signals"].items()
            if item["value"] or "verbose" in parsed.options
        ]
        if rows:
            print("\n" + table(("Signal", "Value", "Usual up to", "Unit", "From"), rows))
    return 0


def _print_evidence(evidence: list[dict[str, Any]]) -> None:
    if evidence:
        print("\nEvidence")
        for item in evidence:
            print(f"  - {printable(item['text'])}")


def run_why(parsed: Parsed) -> int:
    """Print the reasons in words."""
    answer = _client(parsed).ask("why", **_domain(parsed))
    if "json" in parsed.options:
        _print_json(answer)
        return 0
    name = printable(answer["name"])
    verdict = f", verdict {colour(answer['verdict'])}" if answer["verdict"] else ""
    print(f"{name} is {colour(answer['state'])}{verdict}.")
    if answer["why"]:
        print(printable(answer["why"]))
    _print_evidence(answer["evidence"])
    if answer["limits_now"]:
        print("\n" + _limits_table(answer["limits_now"], named=False))
        print(f"\nTo lift these: xenwarden release {name}")
    if answer["events"]:
        print("\nLast events")
        for event in answer["events"]:
            print(f"  {clock_time(event['unix_s'])}  {printable(event['text'])}")
    return 0


def run_limits(parsed: Parsed) -> int:
    """Print the limits in force."""
    answer = _client(parsed).ask("limits", **_domain(parsed))
    if "json" in parsed.options:
        _print_json(answer)
    else:
        print(_limits_table(answer, named=True))
    return 0


def run_release(parsed: Parsed) -> int:
    """Lift limits."""
    dry_run = "dry_run" in parsed.options
    answer = _client(parsed).ask("release", dry_run=dry_run, **_domain(parsed))
    if "json" in parsed.options:
        _print_json(answer)
    elif dry_run or "verbose" in parsed.options:
        for vm in answer:
            what = ", ".join(vm["lifted"]) or "no limit"
            print(
                f"{printable(vm['name'])}: {what} {'would be ' if dry_run else ''}lifted, was {vm['state']}"
            )
    return 0


def run_events(parsed: Parsed) -> int:
    """Print events, and follow them where asked."""
    follow = "follow" in parsed.options
    client = _client(parsed)
    answer = client.ask(
        "events", lines=int(parsed.options.get("lines", "20")), follow=follow, **_domain(parsed)
    )
    as_json = "json" in parsed.options
    for event in answer["events"]:
        _print_event(event, as_json=as_json)
    if follow:
        for event in client.follow():
            if answer["uuid"] in (None, event["uuid"]):
                _print_event(event, as_json=as_json)
    return 0


def _print_event(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(event), flush=True)
    else:
        print(f"{clock_time(event['unix_s'])}  {printable(event['text'])}", flush=True)


def run_policy(parsed: Parsed) -> int:
    """Show, check or print a policy."""
    action = parsed.arguments[0]
    as_json = "json" in parsed.options
    if action == "show":
        answer = _client(parsed).ask("policy")
        if as_json:
            _print_json({"file": answer["file"], "policy": answer["policy"]})
        else:
            print(answer["text"], end="")
        return 0
    # The policy's reader is heavy; only these two need it, and no daemon.
    from xenwarden_host.cli import policyfile  # noqa: PLC0415

    return (
        policyfile.check(parsed.arguments[1], as_json=as_json) if action == "check" else policyfile.default()
    )


def run_kill_switch(parsed: Parsed) -> int:
    """Engage, disengage or ask."""
    answer = _client(parsed).ask(
        "kill-switch", action=parsed.arguments[0], dry_run="dry_run" in parsed.options
    )
    if "json" in parsed.options:
        _print_json(answer)
    elif parsed.arguments[0] == "status" or "dry_run" in parsed.options or "verbose" in parsed.options:
        would = "would be " if "dry_run" in parsed.options else ""
        print(f"{would}on ({answer['file']})" if answer["on"] else f"{would}off")
    return 0


def run_version(parsed: Parsed) -> int:
    """Print versions."""
    try:
        daemon = _client(parsed).ask("version")
    except UnreachableError:
        daemon = {"daemon": None, "xen": None}
    if "json" in parsed.options:
        _print_json({"command": __version__, **daemon})
    else:
        print(f"xenwarden {__version__}")
        if daemon["daemon"] is not None:
            print(f"xenwardend {daemon['daemon']} on Xen {daemon['xen'] or '?'}")
    return 0


def run_record(parsed: Parsed) -> int:
    """Record what enters the core."""
    from xenwarden_host.cli.recording import record  # noqa: PLC0415  runs rarely

    path = parsed.options["output"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the end is the same
    answer = record(_client(parsed), path, anonymise="anonymise" in parsed.options)
    if "json" in parsed.options:
        _print_json(answer)
    else:
        print(f"{path}: {answer['ticks']} ticks, {answer['bytes']} bytes, {answer['ended']}")
    return 0


def run_replay(parsed: Parsed) -> int:
    """Run the core on recordings."""
    # The core is heavy, and needs no daemon.
    from xenwarden_host.cli.replaying import replay  # noqa: PLC0415

    return replay(
        parsed.arguments,
        parsed.options.get("policy"),
        as_json="json" in parsed.options,
        skip_bad="skip_bad" in parsed.options,
    )


RUN: dict[str, Callable[[Parsed], int]] = {
    "list": run_list,
    "show": run_show,
    "why": run_why,
    "limits": run_limits,
    "release": run_release,
    "events": run_events,
    "policy": run_policy,
    "kill-switch": run_kill_switch,
    "record": run_record,
    "replay": run_replay,
    "version": run_version,
}
