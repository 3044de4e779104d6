# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden-exporter`: what Prometheus reads, and the rules that ship for it."""

from __future__ import annotations

import re
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


def scrape(world: World) -> Samples:
    """Return what a scrape of an exporter of this world gives."""
    registry = CollectorRegistry()
    registry.register(Collector(str(world.run_dir / "control.sock")))
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(generate_latest(registry)))
    thread.start()
    while thread.is_alive():
        world.service.step(0.01)
    thread.join()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(got[0].decode())
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
