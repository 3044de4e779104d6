# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden replay`: run the core on recordings. Needs no daemon and no Xen."""

from __future__ import annotations

import gc
import json
import sys
from typing import TYPE_CHECKING, Any

from xenwarden_host.cli.output import printable
from xenwarden_host.control.client import RefusedError
from xenwarden_host.errors import ConfigError
from xenwarden_host.policy.load import load
from xenwarden_host.replay.reader import BadLineError
from xenwarden_host.replay.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Sequence


def replay(
    paths: Sequence[str], policy_path: str | None, *, as_json: bool, skip_bad: bool, scores: bool
) -> int:
    """Replay each file on a core of its own and print what was decided; return the exit status.

    Raises:
        RefusedError: a file cannot be read, has a bad line, or the policy is none.
    """
    try:
        policy = load(policy_path)
    except ConfigError as error:
        raise RefusedError(error.message, error.hint) from None
    gc.freeze()  # the policy and its rules stay: no need to look at them again and again
    for path in paths:
        _replay_one(path, Replay(policy, skip_bad=skip_bad, scores=scores), as_json=as_json)
    return 0


def _replay_one(path: str, run: Replay, *, as_json: bool) -> None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  lines of bytes, nothing else
            if not as_json:
                print(f"{path}\n{'Time':>12}  {'VM':<16}  {'Event':<8}  What")
            for event in run.run(file, path):
                print(json.dumps({"file": path, **event}) if as_json else _row(event))
    except OSError as error:
        raise RefusedError(f"cannot read {path}: {error.strerror}", None) from None
    except BadLineError as error:
        raise RefusedError(str(error), "to pass over such lines: --skip-bad") from None
    counts = {"records": run.records, "ticks": run.ticks, "bad": run.bad}
    if as_json:
        print(json.dumps({"file": path, "event": "end", **counts}))
    else:
        print(f"{run.records} records in {run.ticks} ticks, {run.bad} bad lines")
    if run.bad:
        print(f"xenwarden: {path}: passed over {run.bad} bad lines", file=sys.stderr)


def _row(event: dict[str, Any]) -> str:
    return f"{event['t']:12.3f}  {printable(event['name']):<16}  {event['event']:<8}  {_what(event)}"


def _what(event: dict[str, Any]) -> str:
    match event["event"]:
        case "level":
            head = f"level {event['level']}"
        case "limit":
            head = f"{event['kind']} {event['value']}{' for now' if event['provisional'] else ''}"
        case "lift":
            head = event["kind"]
        case "score":
            head = f"{event['score']:.3f}"
        case "state":
            head = f"{event['old']} to {event['new']}"
        case "verdict":
            head = event["verdict"] + (" and victim" if event["also_victim"] else "")
        case _:
            head = ", ".join(event["rules"])
    return printable(f"{head}: {event['text']}")
