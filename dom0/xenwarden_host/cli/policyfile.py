# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden policy check` and `default`: these need the policy's reader and no daemon."""

from __future__ import annotations

import json
import sys
from importlib import resources

from xenwarden_host.errors import ConfigError
from xenwarden_host.policy.load import load


def check(path: str, *, as_json: bool) -> int:
    """Say what is wrong with the file, one complaint on each line; return the exit status."""
    try:
        load(path)
    except ConfigError as error:
        complaints = error.message.splitlines()
    else:
        complaints = []
    if as_json:
        print(json.dumps({"file": path, "ok": not complaints, "errors": complaints}, indent=2))
    else:
        for line in complaints:
            print(f"xenwarden: {line}", file=sys.stderr)
    return 1 if complaints else 0


def default() -> int:
    """Print the policy that is shipped, which is its own documentation."""
    print(resources.files("xenwarden_host.policy").joinpath("defaults.yaml").read_text("utf-8"), end="")
    return 0
