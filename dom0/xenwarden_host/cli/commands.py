# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each verb does: ask the daemon, print. Text and JSON come from the same answer."""

from __future__ import annotations

import sys
import time

from xenwarden_host import __version__
from xenwarden_host.cli.output import clock_time, colour, printable, span, table
from xenwarden_host.cli.parser import UsageError
from xenwarden_host.control.client import ControlClient, UnreachableError
from xenwarden_host.control.lean import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from xenwarden_host.cli.parser import Parsed

_MISSING_NAMED = 6  # signals that are missing and named by `show`


def _client(parsed: Parsed) -> ControlClient:
    socket_path = parsed.options.get("socket")
    return ControlClient(socket_path) if socket_path else ControlClient()


def _domain(parsed: Parsed) -> dict[str, str]:
    return {"vm": parsed.arguments[0]} if parsed.arguments else {}


def _print_json(value: Any) -> None:
    print(dumps(value, indent=2))


def _float(value: float | None) -> float | None:
    """Return a measured value as `table` takes it: a float is grouped by thousands, an id is not."""
    return None if value is None else float(value)


def _note(sentence: str) -> None:
    sys.stdout.flush()  # in one stream with it, it stands after what it is about
    print(f"xenwarden: {printable(sentence)}", file=sys.stderr)


def _limits_table(rows: list[dict[str, Any]], *, named: bool) -> str:
    header = ("Name",) if named else ()
    return table(
        (*header, "Limit", "Decided", "Set", "Read back", "Before", "State", "Owner", "Until", "Why"),
        [
            (
                *((row["name"],) if named else ()),
                row["kind"],
                row["value"],
                row["set"],
                row["read_back"],
                row["original"] if row["original"] is not None else "none",
                row["state"],
                row["owner"],
                "-" if row["until_unix_s"] is None else clock_time(row["until_unix_s"]),
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


def run_top(parsed: Parsed) -> int:
    """Show all VMs live."""
    from xenwarden_host.cli.top import top  # noqa: PLC0415  much to load, and it stays

    top(parsed)
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
        ("Level", f"{vm['level']}, ordered by an operator" if vm["level_ordered"] == 2 else vm["level"]),
        ("State", vm["state"]),
        ("Verdict", f"{verdict}, and a victim too" if vm["also_victim"] else verdict),
        ("Why", vm["why"] or "-"),
    ]
    agent = vm["agent"]
    if agent is None:
        lines.append(("Agent", "never reported"))
    elif agent["age_s"] is None:
        lines.append(("Agent", f"{agent['state']}, no report was understood yet"))
    else:
        cost = f"{agent['rss_kb']} kB, {agent['cpu_s']:.1f} CPU seconds in {span(agent['wall_s'])}"
        told = f"{agent['state']}, version {agent['version'] or '?'}, last report {span(agent['age_s'])} ago"
        lines.append(("Agent", f"{told}, {cost}"))
    if vm["xenstore"]["transaction_held_s"] is not None:
        lines.append(("XenStore", f"transaction open for {span(vm['xenstore']['transaction_held_s'])}"))
    if trace := vm["trace"]:
        if trace["why_not"]:
            lines.append(("Trace", f"none: {trace['why_not']}"))
        elif trace["took_ms"] is not None:
            cost = f"{trace['read_kb']} kB, read in {trace['took_ms']} ms of CPU"
            lines.append(("Trace", f"last burst of all watched VMs: {cost}"))
    if missing := vm["missing"]:
        more = f" and {len(missing) - _MISSING_NAMED} more" if len(missing) > _MISSING_NAMED else ""
        lines.append(("Missing", ", ".join(missing[:_MISSING_NAMED]) + more))
    for label, value in lines:
        print(f"{label:<8} {colour(printable(str(value)))}")
    _print_evidence(vm["evidence"])
    if vm["limits_now"]:
        print("\n" + _limits_table(vm["limits_now"], named=False))
    if vm["grants"]:
        granted = [(item["kind"], item["value"], item["own"], item["why"]) for item in vm["grants"]]
        print("\n" + table(("Granted", "In all", "Of its own", "Why"), granted))
    if vm["signals"]:
        rows = [
            (name, _float(item["value"]), _float(item["usual"]), item["unit"], item["source"])
            for name, item in vm["signals"].items()
            if item["value"] or "verbose" in parsed.options
        ]
        if rows:
            print("\n" + table(("Signal", "Value", "Usual up to", "Unit", "From"), rows))
    if vm["devices"] and "verbose" in parsed.options:
        from xenwarden_channel.signals import SIGNALS  # noqa: PLC0415  no other verb needs it

        counted = [
            (device, name, _float(value), SIGNALS[name][1])
            for device, rates in vm["devices"].items()
            for name, value in rates.items()
        ]
        print("\n" + table(("Device", "Signal", "Value", "Unit"), counted))
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


def run_limit(parsed: Parsed) -> int:
    """Limit one VM, or show its limits."""
    from xenwarden_host.cli import amounts  # noqa: PLC0415  only here are amounts read

    try:
        orders = amounts.orders(parsed.options)
        for_s = amounts.span_s(parsed.options["for"]) if "for" in parsed.options else None
    except ValueError as error:
        raise UsageError(str(error), parsed.verb) from None
    dry_run = "dry_run" in parsed.options
    if not orders and (for_s is not None or dry_run):
        raise UsageError("limit needs a limit to set, such as --cap 50", parsed.verb)
    client = _client(parsed)
    if not orders:
        vm = client.ask("show", **_domain(parsed))
        answer = {"name": vm["name"], "uuid": vm["uuid"], "ordered": [], "limits_now": vm["limits_now"]}
    else:
        answer = client.ask("limit", orders=orders, for_s=for_s, dry_run=dry_run, **_domain(parsed))
    if "json" in parsed.options:
        _print_json(answer)
    elif not orders or "verbose" in parsed.options:
        print(_limits_table(answer["limits_now"], named=False))
    elif dry_run:
        for order in answer["ordered"]:
            value, was = (order[name] if order[name] is not None else "none" for name in ("value", "was"))
            print(f"{printable(answer['name'])}: {order['kind']} would be {value}, is {was}")
    if not orders or dry_run:
        return 0
    ordered = {order["kind"] for order in answer["ordered"]}
    wrong = [
        row
        for row in answer["limits_now"]
        if row["kind"] in ordered and row["state"] not in ("set", "pending")
    ]
    for row in wrong:
        _note(f"{row['kind']} is {row['state']}: {row['detail']}")
    return 1 if wrong else 0


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


def run_level(parsed: Parsed) -> int:
    """Order the level of one VM."""
    dry_run = "dry_run" in parsed.options
    answer = _client(parsed).ask("level", level=int(parsed.arguments[1]), dry_run=dry_run, **_domain(parsed))
    if "json" in parsed.options:
        _print_json(answer)
    elif dry_run or "verbose" in parsed.options:
        would = "would be " if dry_run else ""
        name = printable(answer["name"])
        print(f"{name}: level {answer['ordered']} {would}ordered, was {answer['was']}")
    return 0


def run_capacity(parsed: Parsed) -> int:
    """Print how full the host is."""
    answer = _client(parsed).ask("capacity")
    if "json" in parsed.options:
        _print_json(answer)
        return 0
    print(
        table(
            ("Name", "ID", "vCPUs", "CPUs used", "Memory kB", "Memory %", "Steal %", "Near max", "Finding"),
            [
                (
                    vm["name"],
                    vm["domid"],
                    vm["vcpus"],
                    vm["cpus_used"],
                    vm["memory_kb"],
                    vm["mem_used_pct"],
                    vm["steal_pct"],
                    f"{vm['near_max']} of {vm['near_max_of']}",
                    _finding(vm),
                )
                for vm in answer["vms"]
            ],
        )
    )
    print(
        f"\n{answer['cpus_used']:.1f} of {answer['cpus']} CPUs are used, "
        f"by {answer['vcpus']} vCPUs and dom0; "
        f"{answer['free_kb'] // 1024} of {answer['memory_kb'] // 1024} MB are free"
    )
    if answer["one_more"] is not None:
        print(answer["one_more"]["text"])
    for sentence in answer["advice"]:
        print(printable(sentence))
    return 0


def _finding(vm: dict[str, Any]) -> str:
    found = ["near its maximum"] if vm["is_near_max"] else []
    return ", ".join(found + (["gets too little"] if vm["gets_too_little"] else [])) or "-"


def run_sprawl(parsed: Parsed) -> int:
    """Print the VMs that have done nothing for long."""
    answer = _client(parsed).ask("sprawl")
    if "json" in parsed.options:
        _print_json(answer)
        return 0
    print(
        table(
            ("Name", "ID", "vCPUs", "Memory kB", "Days idle", "Why"),
            [
                (vm["name"], vm["domid"], vm["vcpus"], vm["memory_kb"], int(vm["idle_s"] // 86400), vm["why"])
                for vm in answer["vms"]
            ],
        )
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
        print(dumps(event), flush=True)
    else:
        print(f"{clock_time(event['unix_s'])}  {printable(event['text'])}", flush=True)


def run_history(parsed: Parsed) -> int:
    """Print what is usual for a VM."""
    answer = _client(parsed).ask("history", **_domain(parsed))
    if "json" in parsed.options:
        _print_json(answer)
        return 0
    near = f"close to its maximum in {answer['near_max']} of {answer['near_max_of']} observations"
    name = printable(answer["name"] or answer["uuid"])
    print(f"{name}, profile {answer['profile']}, seen for {span(answer['known_s'])}, {near}\n")
    rows = [
        (
            signal,
            _float(item["p95"]),
            _float(item["usual"]),
            item["unit"],
            item["observations"],
            span(item["seen_s"]),
            "learnt" if item["learnt"] else "learning",
        )
        for signal, item in answer["signals"].items()
    ]
    print(table(("Signal", "95 %", "Usual up to", "Unit", "Observations", "Over", "State"), rows))
    return 0


def run_forget(parsed: Parsed) -> int:
    """Forget a VM."""
    dry_run = "dry_run" in parsed.options
    answer = _client(parsed).ask("forget", dry_run=dry_run, **_domain(parsed))
    if "json" in parsed.options:
        _print_json(answer)
    elif dry_run or "verbose" in parsed.options:
        name, what = printable(answer["name"] or answer["uuid"]), ", ".join(answer["forgotten"]) or "nothing"
        print(f"{name}: {what} {'would be ' if dry_run else ''}forgotten")
    return 0


def run_report(parsed: Parsed) -> int:
    """Write a page on a VM."""
    from xenwarden_host.cli import reporting  # noqa: PLC0415  much to load, for a verb that is typed seldom

    since = parsed.options.get("since")
    try:
        since_unix_s = reporting.since(since, time.time())
    except ValueError as error:
        raise UsageError(str(error), parsed.verb) from None
    data = _client(parsed).ask("report", since_unix_s=since_unix_s, **_domain(parsed))
    if "json" in parsed.options:
        _print_json(data)
    else:
        reporting.write(data, parsed.options["output"], whole=since is not None)
    return 0


def run_doctor(parsed: Parsed) -> int:
    """Check the host and the daemon."""
    from xenwarden_host.cli import doctor  # noqa: PLC0415  much to load, for a verb that is typed seldom

    found = doctor.examine(doctor.Host(socket=parsed.options.get("socket", "")))
    answer = doctor.as_json(found)
    if "json" in parsed.options:
        _print_json(answer)
    else:
        for item in found:
            if item.state != doctor.OK or "verbose" in parsed.options:
                print(f"{colour(item.state.ljust(7))}  {item.check:<9}  {printable(item.text)}")
                if item.advice:
                    print(f"{'':20}{printable(item.advice)}")
        count = sum(item.state == doctor.OK for item in found)
        print(f"{count} of {len(found)} checks are ok")
    return 0 if answer["ok"] else 1


def _value(value: Any) -> str:
    """Return a value of a policy as a file would have it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_policy(parsed: Parsed) -> int:
    """Show, check or print a policy."""
    action = parsed.arguments[0]
    as_json = "json" in parsed.options
    if action == "show":
        vm = {"vm": parsed.arguments[1]} if len(parsed.arguments) > 1 else {}
        answer = _client(parsed).ask("policy", **vm)
        text = answer.pop("text", None)
        if as_json:
            _print_json(answer)
            return 0
        if text is None:
            rows = [(item["key"], item["source"], _value(item["value"])) for item in answer["values"]]
            print(table(("Key", "From", "Value"), rows))
        else:
            print(text, end="")
        for item in answer["refused"]:
            _note(f"{item['node']} is refused: {item['why']}")
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
        by = f" ({answer['file']})" if answer["file"] else ""
        print(f"{would}on{by}" if answer["on"] else f"{would}off")
    return 0


def run_export(parsed: Parsed) -> int:
    """Print what the daemon knows, to be taken elsewhere."""
    from xenwarden_host.cli import transferring  # noqa: PLC0415  heavy, and no daemon is asked

    return transferring.export(parsed)


def run_import(parsed: Parsed) -> int:
    """Take what was exported."""
    from xenwarden_host.cli import transferring  # noqa: PLC0415  likewise

    taken = transferring.restore(parsed)
    if "json" in parsed.options:
        _print_json(taken)
    elif "dry_run" in parsed.options or "verbose" in parsed.options:
        would = "would be " if "dry_run" in parsed.options else ""
        figures = f"{taken['vms']} VMs, {taken['limits']} limits, {taken['originals']} originals"
        print(f"{figures} {would}taken; policy: {taken['policy'] or 'none'}")
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
    import signal  # noqa: PLC0415  brings enum, which no other verb needs

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
        scores="scores" in parsed.options,
    )


RUN: dict[str, Callable[[Parsed], int]] = {
    "list": run_list,
    "top": run_top,
    "show": run_show,
    "why": run_why,
    "limits": run_limits,
    "limit": run_limit,
    "release": run_release,
    "level": run_level,
    "capacity": run_capacity,
    "sprawl": run_sprawl,
    "events": run_events,
    "history": run_history,
    "forget": run_forget,
    "policy": run_policy,
    "kill-switch": run_kill_switch,
    "export": run_export,
    "import": run_import,
    "report": run_report,
    "doctor": run_doctor,
    "record": run_record,
    "replay": run_replay,
    "version": run_version,
}
