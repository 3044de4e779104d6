# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden-exporter`: what Prometheus reads, and the rules that ship for it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from daemon_world import World
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from xenwarden_host.control.exporter import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenstore_worlds import Wait

ROOT = Path(__file__).resolve().parents[3]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def served(world: World) -> str:
    """Return what a scrape of an exporter of this world gives, as Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(Collector(str(world.run_dir / "control.sock")))
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(generate_latest(registry)))
    thread.start()
    while thread.is_alive():
        world.service.step(0.01)
    thread.join()
    return got[0].decode()


def scrape(world: World) -> Samples:
    """Return the values of a scrape."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(served(world))
        for sample in family.samples
    }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def test_attack_is_seen(world: World) -> None:
    mallory = world.start('mal"lory\n')
    mallory.signals.update(tx_pps=50.0, tx_syn_pps=2.0)
    world.run(seconds=20)
    vm = {"uuid": mallory.uuid, "name": mallory.name}

    def one(samples: Samples, name: str, **labels: str) -> float:
        return samples[name, tuple(sorted({**vm, **labels}.items()))]

    before = scrape(world)
    assert before["xenwarden_up", ()] == 1
    assert one(before, "xenwarden_vm_state", xenwarden_vm_state="normal") == 1
    assert one(before, "xenwarden_vm_agent", xenwarden_vm_agent="alive") == 1
    assert before["xenwarden_store_connected", ()] == 1
    mallory.signals.update(tx_pps=5000, tx_syn_pps=5000)
    mallory.vif.update(rx_packets=5000)
    world.run(seconds=20)
    after = scrape(world)
    assert one(after, "xenwarden_vm_state", xenwarden_vm_state="normal") == 0
    assert one(after, "xenwarden_vm_state", xenwarden_vm_state="contained") == 1
    assert one(after, "xenwarden_vm_verdict", xenwarden_vm_verdict="attacker") == 1
    assert one(after, "xenwarden_vm_level") == 2
    assert one(after, "xenwarden_vm_limit", kind="vif-pps/syn", state="set") == 1
    assert after["xenwarden_daemon_ticks_total", ()] > before["xenwarden_daemon_ticks_total", ()]
    assert after["xenwarden_daemon_resident_memory_bytes", ()] > 5e6


def test_rules_ask_for_what_is_served_and_say_what_to_do(world: World) -> None:
    world.start("web")
    world.service.warden.errors["store"] += 1
    world.run(seconds=2)
    names = {name for name, _labels in scrape(world)} | {"up", "xenwarden_vm_limit"}
    labels = {key for _name, pairs in scrape(world) for key, _value in pairs} | {"job", "state", "kind"}
    rules = yaml.safe_load((ROOT / "dom0/prometheus/xenwarden.rules.yml").read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        expression = re.sub(r'"[^"]*"', '""', rule["expr"])
        for selector in re.findall(r"\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", selector)) <= labels
        asked = set(re.findall(r"\b(?:up|xenwarden_\w+)\b", re.sub(r"\{[^}]*\}", "", expression)))
        assert asked
        assert asked <= names
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_process_serves_without_a_daemon_and_ends_on_a_signal(tmp_path: Path, eventually: Wait) -> None:
    port = free_port()
    command = [sys.executable, "-m", "xenwarden_host.control.exporter", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--socket", str(tmp_path / "none")], stderr=subprocess.PIPE, text=True
    )

    def get() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.URLError:
            return ""

    eventually(get)
    text = get()
    assert "xenwarden_up 0.0" in text
    assert "xenwarden_vm" not in text
    second = subprocess.run(command, check=False, capture_output=True, text=True)
    assert second.returncode == 1
    assert "cannot listen" in second.stderr
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "xenwardend is not running" in err
    assert "Traceback" not in err + second.stderr


# --- Prometheus' own word --------------------------------------------------------------------------------

RULES = ROOT / "dom0/prometheus/xenwarden.rules.yml"
# A minute each: mallory is contained from the third on, its limit fails, its agent falls silent.
TIMES = {
    'xenwarden_vm_state{name="mallory",uuid="u",xenwarden_vm_state="contained"}': "0 0 1x20",
    'xenwarden_vm_state{name="mallory",uuid="u",xenwarden_vm_state="protected"}': "0x20",
    'xenwarden_vm_limit{name="mallory",uuid="u",kind="cap",state="failed"}': "0 0 1x20",
    'xenwarden_vm_agent{name="mallory",uuid="u",xenwarden_vm_agent="silent"}': "0 0 1x20",
    'xenwarden_up{instance="host"}': "1 1 0x20",
    'xenwarden_kill_switch{instance="host"}': "0 0 1x20",
    'xenwarden_store_connected{instance="host"}': "1x20",
    'xenwarden_daemon_errors_total{where="apply"}': "0x20",
}
# By minute: who is called.
CALLED = {
    "1m": (),
    "2m": ("XenwardenAttacker",),
    "3m": ("XenwardenAttacker", "XenwardenLimitFailed"),
    "8m": ("XenwardenAttacker", "XenwardenLimitFailed", "XenwardenDown", "XenwardenAgentSilent"),
    "18m": (
        "XenwardenAttacker",
        "XenwardenLimitFailed",
        "XenwardenDown",
        "XenwardenAgentSilent",
        "XenwardenKillSwitch",
    ),
}


@pytest.fixture
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None and not os.environ.get("CI"):
        pytest.skip("there is no promtool: ci/setup --full installs it")
    assert program is not None, "there is no promtool"
    return program


@pytest.mark.full
def test_promtool_finds_nothing_to_say_of_rules_and_metrics(promtool: str, world: World) -> None:
    checked = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    mallory = world.start("mallory")
    mallory.signals.update(tx_pps=5000, tx_syn_pps=5000)
    world.run(seconds=30)
    linted = subprocess.run(
        [promtool, "check", "metrics"], input=served(world), capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


@pytest.mark.full
def test_prometheus_calls_who_should_be_called_and_when(promtool: str, tmp_path: Path) -> None:
    names = [rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values} for series, values in TIMES.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count by (alertname) (ALERTS{{alertstate="firing",alertname="{name}"}})',
                        "eval_time": time,
                        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}]
                        if name in called
                        else [],
                    }
                    for time, called in CALLED.items()
                    for name in names
                ],
            }
        ],
    }
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(tests))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
