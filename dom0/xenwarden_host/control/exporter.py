# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden-exporter`: what xenwardend knows, for Prometheus. A viewer of the control socket, no more.

It is a process of its own, without privileges: whoever reaches its port reaches nothing else. Each scrape
asks the daemon once; a daemon that does not answer is `xenwarden_up 0`, not an error.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from xenwarden_host import __version__
from xenwarden_host.control.client import SOCKET_PATH, ControlClient, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import Metric

PORT = 9879
_STATES = ("normal", "watched", "contained", "protected")
_VERDICTS = ("attacker", "victim", "neither")
_AGENTS = ("absent", "alive", "silent", "garbled", "version")
_VM = ("uuid", "name")


class Collector:
    """Asks the daemon at `socket_path` and gives what it answers as metrics."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._lock = threading.Lock()  # one connection at a time, however many scrape

    def describe(self) -> list[Metric]:
        """Return nothing: the client would ask the daemon to learn names before anyone scrapes."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Ask the daemon and yield the metrics."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  an optional extra

        listed, limits = None, []
        with self._lock:
            try:
                client = ControlClient(self._socket_path)
                listed, limits = client.ask("list"), client.ask("limits")
                client.close()
            except RefusedError as error:
                print(f"xenwarden-exporter: {error.message}", file=sys.stderr, flush=True)
        yield GaugeMetricFamily(
            "xenwarden_up", "Whether xenwardend answers.", value=0.0 if listed is None else 1.0
        )
        if listed is not None:
            yield from _daemon(listed)
            yield from _vms(listed["vms"])
            yield _limits(limits)


def _daemon(listed: dict[str, Any]) -> Iterator[Metric]:
    from prometheus_client.core import (  # noqa: PLC0415  likewise
        CounterMetricFamily,
        GaugeMetricFamily,
        InfoMetricFamily,
    )

    daemon = listed["daemon"]
    yield InfoMetricFamily("xenwarden_daemon", "Version of xenwardend.", value={"version": daemon["version"]})
    yield GaugeMetricFamily(
        "xenwarden_daemon_uptime_seconds", "Since xenwardend started.", value=daemon["up_s"]
    )
    yield CounterMetricFamily(
        "xenwarden_daemon_cpu_seconds", "CPU time that xenwardend used.", value=daemon["cpu_s"]
    )
    yield GaugeMetricFamily(
        "xenwarden_daemon_resident_memory_bytes", "Memory of xenwardend.", value=daemon["rss_kb"] * 1024
    )
    yield CounterMetricFamily("xenwarden_daemon_ticks", "Decisions made.", value=daemon["ticks"])
    errors = CounterMetricFamily("xenwarden_daemon_errors", "Failures survived.", labels=["where"])
    for where, count in daemon["errors"].items():
        errors.add_metric([where], count)
    yield errors
    for name, meaning, holds in (
        ("kill_switch", "Whether the kill switch is on: no limit is set.", listed["kill_switch"] is not None),
        ("dry_run", "Whether xenwardend changes nothing.", daemon["dry_run"]),
        ("store_connected", "Whether xenstored can be reached.", daemon["store"] == "connected"),
    ):
        yield GaugeMetricFamily(f"xenwarden_{name}", meaning, value=float(holds))
    yield GaugeMetricFamily(
        "xenwarden_notices", "Sentences that xenwarden list has for an admin.", value=len(listed["notices"])
    )


def _vms(vms: list[dict[str, Any]]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily, StateSetMetricFamily  # noqa: PLC0415  likewise

    level = GaugeMetricFamily("xenwarden_vm_level", "Level of the VM's monitors, 1 or 2.", labels=_VM)
    state = StateSetMetricFamily("xenwarden_vm_state", "HSEM's state of the VM.", labels=_VM)
    verdict = StateSetMetricFamily("xenwarden_vm_verdict", "The last verdict on the VM.", labels=_VM)
    agent = StateSetMetricFamily("xenwarden_vm_agent", "How dom0 stands with the VM's agent.", labels=_VM)
    for vm in vms:
        labels = (vm["uuid"], vm["name"])
        level.add_metric(labels, vm["level"])
        state.add_metric(labels, {word: vm["state"] == word for word in _STATES})
        verdict.add_metric(labels, {word: vm["verdict"] == word for word in _VERDICTS})
        agent.add_metric(labels, {word: vm["agent"] == word for word in _AGENTS})
    yield from (level, state, verdict, agent)


def _limits(limits: list[dict[str, Any]]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  likewise

    family = GaugeMetricFamily(
        "xenwarden_vm_limit", "A limit on the VM; 1, its state is a label.", labels=[*_VM, "kind", "state"]
    )
    for limit in limits:
        family.add_metric([limit["uuid"], limit["name"], limit["kind"], limit["state"]], 1.0)
    return family


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="xenwarden-exporter", description="Serve what xenwardend knows to Prometheus, at /metrics."
    )
    parser.add_argument(
        "--listen", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s, this host only"
    )
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s")
    parser.add_argument("--socket", default=SOCKET_PATH, metavar="PATH", help="default: %(default)s")
    parser.add_argument("--version", action="version", version=f"xenwarden-exporter {__version__}")
    options = parser.parse_args(argv)
    try:
        from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415  it may be missing
    except ImportError:
        print("xenwarden-exporter: the Python module prometheus_client is missing", file=sys.stderr)
        print("  apt-get install python3-prometheus-client", file=sys.stderr)
        return 1
    # Before the server's threads start: they inherit the mask, so that only this one takes the signal.
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    registry = CollectorRegistry()
    registry.register(Collector(options.socket))
    try:
        start_http_server(options.port, options.listen, registry)
    except (OSError, OverflowError) as error:
        print(
            f"xenwarden-exporter: cannot listen at {options.listen}:{options.port}: {error}", file=sys.stderr
        )
        return 1
    signal.sigwait(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
