# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Debian packages say what the tree says. `ci/package --check` builds, installs and purges them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = ROOT / "ci/packaging/debian"
POLICY = ROOT / "dom0/xenwarden_host/policy/defaults.yaml"


def test_packages_have_the_version_of_what_is_in_them() -> None:
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    for root in ("xenstore", "domU", "dom0"):
        project = tomllib.loads((ROOT / root / "pyproject.toml").read_text())["project"]
        assert first.startswith(f"xenwarden ({project['version']}) ")


def test_groups_of_the_built_in_policy_are_made_and_go_with_a_purge() -> None:
    named = set(re.findall(r"\[(xenwarden-\w+)\]", POLICY.read_text()))
    assert len(named) == 3
    sysusers = (DEBIAN / "xenwarden-dom0.sysusers").read_text()
    made = set(re.findall(r"^g (\S+) ", sysusers, re.MULTILINE))
    purged = set(re.findall(r"xenwarden-[a-z]+", (DEBIAN / "xenwarden-dom0.postrm").read_text()))
    assert made == purged == named


@pytest.mark.full
@pytest.mark.parametrize("unit", sorted(ROOT.glob("dom*/systemd/*.service")), ids=lambda unit: unit.stem)
def test_units_are_exposed_to_little(unit: Path) -> None:
    """Systemd's own measure, 0 to 10, is below 4."""
    if shutil.which("systemd-analyze") is None and not os.environ.get("CI"):
        pytest.skip("there is no systemd-analyze: ci/setup --full installs it")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=39", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
