# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make in the folder ARGV[1] what no source root holds: the extension module and the commands."""

from __future__ import annotations

import runpy
import sys
import tomllib
from pathlib import Path

# -I: neither the caller's environment nor where it stands decides what root imports.
COMMAND = """\
#!/usr/bin/python3 -I
import sys

from {module} import {function}

sys.exit({function}())
"""
FOR_USERS = "xenwarden"  # whom the policy gives a role is not root: no /usr/sbin is on their PATH


def main(target: Path) -> None:
    """Make them."""
    runpy.run_path("dom0/xenwarden_host/libxl/_build.py")["ffibuilder"].compile(tmpdir=str(target))
    for root in ("dom0", "domU"):
        project = tomllib.loads(Path(root, "pyproject.toml").read_text("utf-8"))["project"]
        for name, entry in project["scripts"].items():
            module, _, function = entry.partition(":")
            command = target / root / ("bin" if name == FOR_USERS else "sbin") / name
            command.parent.mkdir(parents=True, exist_ok=True)
            command.write_text(COMMAND.format(module=module, function=function), "ascii")
            command.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
