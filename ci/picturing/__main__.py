# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make pictures of the report and of `xenwarden top`: `ci/pictures [--all DIR]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from picturing.browser import Browser
from picturing.scenes import ROOT, Scene

if TYPE_CHECKING:
    from picturing.terminal import Terminal

README = ROOT / "docs"  # what the README shows
REPORT_HEIGHT = 772  # of the README's: what happened, and the first signals
THEMES = {"light": False, "dark": True}


def main() -> None:
    """Make the README's pictures, or with `--all` those of 1, 50 and 300 VMs on 80 and 200 columns."""
    every = sys.argv[1:2] == ["--all"]
    target = Path(sys.argv[2]) if every else README
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, Browser() as browser:
        for vms in (1, 50, 300) if every else (50,):
            scene = Scene(Path(directory) / str(vms), vms)
            try:
                scene.play()
                for columns in (80, 200) if every else (100,):
                    name = f"top-{vms}-{columns}" if every else "top"
                    with scene.terminal("top", columns=columns) as terminal:
                        shoot(browser, scene, terminal, "1 contained", target / name)
                        if every:
                            terminal.press("\r")
                            shoot(browser, scene, terminal, "tx_syn_pps", target / f"one-{vms}-{columns}")
                file = scene.world.directory / "report.html"
                scene.world.command("report", "mallory", "-o", str(file))
                for theme, dark in THEMES.items():
                    page = browser.open(file, width=900, dark=dark)
                    name = f"report-{vms}" if every else "report"
                    height = None if every else REPORT_HEIGHT
                    (target / f"{name}-{theme}.png").write_bytes(page.picture(height))
            finally:
                scene.close()


def shoot(browser: Browser, scene: Scene, terminal: Terminal, text: str, name: Path) -> None:
    """Wait until the terminal shows the text, and make pictures of it, light and dark."""
    if not terminal.sees(text):
        raise SystemExit(f"{text!r} is not shown")
    for theme, dark in THEMES.items():
        file = scene.world.directory / "terminal.html"
        file.write_text(terminal.html(dark=dark))
        page = browser.open(file, width=100, dark=dark)  # it grows to what it shows
        name.with_name(f"{name.name}-{theme}.png").write_bytes(page.picture())


main()
