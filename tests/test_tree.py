# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree keeps its shape: who may import whom, licences, tools without complaint."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "xenwarden_channel": ROOT / "xenstore/xenwarden_channel",
    "xenwarden_guest": ROOT / "domU/xenwarden_guest",
    "xenwarden_host": ROOT / "dom0/xenwarden_host",
}
# host → channel ← guest, nothing else.
MAY_IMPORT = {
    "xenwarden_channel": {"xenwarden_channel"},
    "xenwarden_guest": {"xenwarden_guest", "xenwarden_channel"},
    "xenwarden_host": {"xenwarden_host", "xenwarden_channel"},
}


def tracked(*patterns: str) -> list[Path]:
    out = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return [path for name in out.split("\0") if name and (path := ROOT / name).is_file()]


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package: str) -> None:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    for path in files:
        ours = {name.partition(".")[0] for name in imported_modules(path)} & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


def test_guest_needs_nothing_but_the_standard_library_and_the_channel() -> None:
    for path in sorted(PACKAGES["xenwarden_guest"].rglob("*.py")):
        for name in imported_modules(path):
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names or top in MAY_IMPORT["xenwarden_guest"], f"{path}: {name}"


def test_every_source_file_names_its_licence_first() -> None:
    for path in tracked("*.py", "*.c", "*.h", "ci/*", ".ci/*"):
        if path.suffix not in {".py", ".c", ".h", ".sh", ""}:
            continue
        if path.parts[-2:] in {("debian", "changelog"), ("debian", "copyright"), ("source", "format")}:
            continue  # dpkg's own formats
        head = path.read_bytes()[:200].decode(errors="replace")
        assert "SPDX-License-Identifier: LGPL-2.1-or-later" in head, path


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param("ruff", ["check", "."], id="ruff-check"),
        pytest.param("ruff", ["format", "--check", "."], id="ruff-format"),
        pytest.param("mypy", ["dom0", "domU", "xenstore", "ci", "tests"], id="mypy-strict"),
    ],
)
def test_tools_have_nothing_to_say(tool: str, arguments: list[str]) -> None:
    if not (Path(sys.prefix) / "bin" / tool).exists():
        if os.environ.get("CI"):
            pytest.fail(f"{tool} is not installed")
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
