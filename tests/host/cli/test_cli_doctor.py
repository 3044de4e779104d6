# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden doctor` on machines that lack this or that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xenwarden_host.cli import doctor

if TYPE_CHECKING:
    from pathlib import Path

WELL = {
    "proc/xen/capabilities": "control_d\n",
    "dev/xen/privcmd": "",
    "sys/hypervisor/version/major": "4\n",
    "sys/hypervisor/version/minor": "17\n",
    "sys/hypervisor/version/extra": ".7\n",
    "run/systemd/system/x": "",
    "etc/xen/xenwarden.yaml": "roles: {viewer: [root], operator: [], admin: []}\n",
    "proc/812/comm": "oxenstored\n",
    "etc/xen/oxenstored.conf": "# quota-maxentity = 1\nquota-activate = true\nquota-maxentity = 1000\n",
    "sys/module/xen_netback/x": "",
    "proc/sys/kernel/osrelease": "6.1.0\n",
    "lib/modules/6.1.0/modules.dep": "sch_ingress.ko:\ncls_flower.ko:\ncls_matchall.ko:\nact_police.ko:\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu io memory\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "xen\n",
}
NUL = chr(0)
UNIT = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nNRestarts=0\n"
TOLD = {"systemctl": UNIT, "timedatectl": "yes\n"}


def examine(root: Path, files: dict[str, str], told: dict[str, str]) -> dict[str, list[doctor.Finding]]:
    (root / "var/lib").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/xenwarden").mkdir(mode=0o700, exist_ok=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    host = doctor.Host(root, lambda argv: told.get(argv[0]), str(root / "no-socket"))
    found: dict[str, list[doctor.Finding]] = {}
    for item in doctor.examine(host):
        found.setdefault(item.check, []).append(item)
    return found


def test_host_that_is_well_has_nothing_but_a_missing_daemon(tmp_path: Path) -> None:
    found = examine(tmp_path, WELL, TOLD)
    del found["libxl"]  # of the machine that tests
    wrong = [item for items in found.values() for item in items if item.state != "ok"]
    assert [(item.check, item.text) for item in wrong] == [("daemon", "xenwardend is not running")]
    assert found["xen"][0].text == "dom0 of Xen 4.17.7"
    assert "1000 nodes" in found["xenstored"][0].text


@pytest.mark.parametrize(
    ("check", "changed", "told", "state", "said", "advised"),
    [
        ("xen", {"proc/xen/capabilities": "\n"}, {}, "bad", "not dom0", "xenwarden-agent"),
        ("xen", {"proc/xen/capabilities": None}, {}, "bad", "Xen does not run", "mount -t xenfs"),
        ("xen", {"dev/xen/privcmd": None}, {}, "bad", "privcmd is missing", "modprobe"),
        ("units", {}, {"systemctl": "LoadState=not-found\n"}, "bad", "not installed", "package"),
        ("units", {}, {"systemctl": UNIT.replace("=active", "=failed")}, "bad", "has failed", "journalctl"),
        ("units", {}, {"systemctl": UNIT.replace("=active", "=inactive")}, "bad", "is inactive", "start"),
        ("units", {}, {"systemctl": UNIT.replace("enabled", "disabled")}, "warn", "after a reboot", "enable"),
        ("units", {}, {"systemctl": UNIT.replace("NRestarts=0", "NRestarts=4")}, "warn", "4 times", "jour"),
        ("xenstored", {"proc/812/comm": "bash\n"}, {}, "unknown", "no xenstored", "xenstored"),
        ("xenstored", {"etc/xen/oxenstored.conf": "quota-activate = false"}, {}, "warn", "without", "true"),
        ("xenstored", {"etc/xen/oxenstored.conf": "quota-maxentity=9"}, {}, "warn", "9 nodes", "raise"),
        (
            "xenstored",
            {
                "proc/812/comm": "xenstored\n",
                "proc/812/cmdline": f"x{NUL}--entry-size=512{NUL}-E{NUL}900{NUL}",
            },
            {}, "warn", "900 nodes and 512 bytes", "raise",
        ),
        ("network", {"sys/module/xen_netback/x": None}, {}, "warn", "nothing to act on", "modprobe"),
        ("network", {"lib/modules/6.1.0/modules.dep": "cls_flower"}, {}, "warn", "sch_ingress", "kernel"),
        ("disks", {"sys/fs/cgroup/cgroup.controllers": "cpu"}, {}, "warn", "vbd-io", "unified"),
        ("clock", {}, {"timedatectl": "no\n"}, "warn", "not synchronised", "set-ntp"),
        ("policy", {"etc/xen/xenwarden.yaml": "tick_s: [\n"}, {}, "bad", "refused", "policy check"),
        ("policy", {"etc/xen/xenwarden.yaml": "roles: {viewer: [nosuch]}"}, {}, "warn", "nosuch", "groupadd"),
        ("database", {"var/lib/xenwarden/state.db.damaged-1": ""}, {}, "warn", "set aside", "sqlite3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(
    tmp_path: Path,
    check: str,
    changed: dict[str, str | None],
    told: dict[str, str | None],
    state: str,
    said: str,
    advised: str,
) -> None:
    files = {name: text for name, text in {**WELL, **changed}.items() if text is not None}
    answers = {name: text for name, text in {**TOLD, **told}.items() if text is not None}
    first = examine(tmp_path, files, answers)[check]
    wrong = [item for item in first if item.state != "ok"]
    assert wrong[0].state == state
    assert said in wrong[0].text
    assert advised in wrong[0].advice


def test_check_that_breaks_is_told_and_stops_no_other(tmp_path: Path) -> None:
    files = {**WELL, "etc/xen/oxenstored.conf": "quota-maxentity = many\n"}
    found = examine(tmp_path, files, TOLD)
    assert found["xenstored"][0].state == "unknown"
    assert "many" in found["xenstored"][0].text
    assert found["clock"][0].state == "ok"


def test_state_that_others_may_enter_is_bad(tmp_path: Path) -> None:
    examine(tmp_path, WELL, TOLD)
    (tmp_path / "var/lib/xenwarden").chmod(0o755)
    assert examine(tmp_path, WELL, TOLD)["database"][0].state == "bad"
