# SPDX-License-Identifier: LGPL-2.1-or-later
"""The core scenarios on real Xen, and the lab's own promises: it says what failed, it leaves nothing."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from xenlab import accel, cli, layers, load, qemu, runner, store
from xenlab.machine import Lab

pytestmark = pytest.mark.lab

PATIENCE = 4.0  # a machine can be several times slower than it was; `./ci/bench lab` judges how soon
BARE = """
host: {xenwarden: false}
guests: [{name: one}]
steps:
"""


# The core; `ci/lab run --all` plays every one, PVH too, which QEMU's emulation of SVM breaks now and then.
# In this order: those with the same guests share a snapshot.
@pytest.mark.parametrize(
    "name",
    [
        *("demo", "quiet", "swapped", "no-agent", "admin-limits"),
        *("failsafe", "credit2-systemd"),
    ],
)
def test_scenario_comes_true(name: str) -> None:
    outcome, _ = runner.run(load.load(cli.SCENARIOS / f"{name}.yaml"), patience=PATIENCE)
    assert outcome.failures == []


def test_packet_limits_do_on_dom0s_kernel_what_their_tests_say(tmp_path: Path) -> None:
    """This machine's kernel may lack flower and police; then these tests are skipped here, never there."""
    scenario = tmp_path / "bare.yaml"
    scenario.write_text(BARE + "  - pause: 0\n")
    machine = load.load(scenario).machine
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("_pytest", "pytest", "pluggy", "iniconfig", "packaging", "pygments"):
            (origin,) = importlib.import_module(name).__path__
            tar.add(origin, name, filter=lambda info: None if "__pycache__" in info.name else info)
        tar.add(Path(origin).parent / "py.py", "py.py")
        name = "test_limits_tc_kernel.py"
        tar.add(store.REPO / "tests" / "host" / "limits" / name, name)
    images = layers.get()
    with Lab(machine, images, accel.choose("auto", images, machine)) as dom0:
        dom0.start()
        dom0.link.put("/root/tests.tar.gz", packed.getvalue())
        ran = dom0.link.run(
            f"mkdir tests && cd tests && tar xzf ../tests.tar.gz && python3 -m pytest -q -rs {name}", 300
        )
    assert ran["status"] == 0, ran["output"]
    assert re.findall(r"SKIPPED.*: (.*)", ran["output"]) == ["this kernel has them"]


def lab(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "xenlab.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_behind() -> dict[str, list[str]]:
    """What a lab could leave: QEMU processes, runs, half-done builds, mounts, loop devices."""
    cache = store.cache_dir()
    processes = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            target = str(path.readlink())
        except OSError:
            continue
        if target.startswith(str(cache / "runs")):
            processes.append(target)
    return {
        "processes": processes,
        "runs": sorted(p.name for p in (cache / "runs").glob("*")),
        "half-done": sorted(p.name for p in cache.glob(".new-*")),
        "mounts": sorted(Path("/proc/mounts").read_text().splitlines()),
        "loops": sorted(p.name for p in Path("/sys/block").glob("loop*/backing_file")),
    }


def test_what_fails_is_told_and_the_exit_status_says_so(tmp_path: Path) -> None:
    scenario = tmp_path / "bare.yaml"
    steps = [
        "  - {in: one, run: 'echo here; exit 7'}",
        "  - {in: one, run: 'echo $ONE_IP $(hostname)', expect_output: '^10.0.0.10 one$'}",
        "  - {in: one, run: sleep 30, timeout: 1}",
        "  - {name: ticks, in: one, run: 'while :; do echo 4; sleep 0.2; done', background: true,",
        "     save_as: ticks}",
        "  - {in: one, until: test -e /run/flag, timeout: 20, after: 1}",
        "  - stop: ticks",
        "expect:",
        "  figures:",
        "    - {left: {of: ticks, take: count}, is: '>=', right: 3}",
        "    - {left: {of: ticks, take: median}, is: '==', right: 5}",
    ]
    steps.insert(3, "  - {in: one, run: 'sleep 2; touch /run/flag'}")
    scenario.write_text(BARE + "\n".join(steps) + "\n")
    before = left_behind()
    process = lab("run", scenario, "--json", tmp_path / "r.json", "--junit", tmp_path / "r.xml")
    printed, said = process.communicate(timeout=900)
    assert process.returncode == 1, said
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["passed"] is False
    exit7, slow, median = result["failures"]
    assert "ended with status 7, expected 0; it said: here" in exit7
    assert "did not end within 1 s" in slow
    assert median == "median of ticks: 4 is not == 5"
    assert f"{scenario.stem}: FAILED" in printed
    assert (tmp_path / "r.xml").exists()
    assert result["host"]["xen_version"].startswith("4.17")
    assert result["guests"]["one"]["verdict"] is None
    assert left_behind() == before


@pytest.mark.parametrize("moment", ["setup", "boot", "steps"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_an_interrupted_lab_leaves_nothing(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    scenario = tmp_path / "long.yaml"
    # Another name for each boot that is to be interrupted: no snapshot fits.
    name = f"g{number.value}" if moment == "boot" else "one"
    scenario.write_text(BARE.replace("one", name) + f"  - {{in: {name}, run: sleep 300, timeout: 400}}\n")
    before = left_behind()
    process = lab("run", scenario)
    assert process.stderr is not None
    for line in process.stderr:
        if {"setup": "scenario", "boot": "booting Xen", "steps": "sleep 300"}[moment] in line:
            break
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(60) != 0
    if number == signal.SIGKILL:
        # Nobody was left to clean up; QEMU died with the lab, and the next run takes away the files.
        time.sleep(1)
        assert left_behind()["processes"] == before["processes"]
        qemu.Run().close()
        store.build("nothing", "x", lambda _: None, keep=0)
    assert left_behind() == before
