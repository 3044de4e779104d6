# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest agent's cost: its start, and a flood and a stream beside softflowd; then the group `agent_lab`.

Without Xen: the agent talks to the real oxenstored through the harness of `tests/xenstored`, and the VM's
interface is one end of a veth pair in a namespace. softflowd is Debian's package, unpacked and not installed.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import agent_lab
from benchmarks.figures import figure
from xenwarden_channel.client import StoreClient
from xenwarden_channel.errors import StoreError
from xenwarden_channel.messages import encode, parse
from xenwarden_host.policy.load import defaults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.figures import Figure

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "xenstored"))
import xenstored_offline  # noqa: E402  the harness lies with the tests

PYTHON = "/usr/bin/python3"  # the distribution's, as in a guest; a venv's may be another build
PEERS = ("softflowd", "libpcap0.8")
DOMID = 5
INTERVAL_S = 5
ROUNDS = 5
PACKETS = 200_000
MOST_RSS_LEVEL2_KB = 16 * 1024
MOST_START_S = 1.0
MOST_CPU_PCT, MOST_CPU_LEVEL2_PCT = 5.0, 10.0
STREAM_S = 1.0

# The agent as it is, but for its question whether this is Xen.
AGENT = """
import sys
from xenwarden_guest.collectors import xen
from xenwarden_guest.main import main
xen.on_xen = lambda roots: True
sys.exit(main())
"""
SEND = """
import socket, sys, time
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
sock.bind(("here", 0))
ip = bytes.fromhex("4500003400004000400600000a0000010a000002")
frame = bytes.fromhex("0200000000020200000000010800") + ip + bytes.fromhex("9c4001bb") + bytes(9)
frame += bytes([0x02]) + bytes(18)
send = sock.send
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[1])):
    send(frame)
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
SINK = """
import socket
server = socket.create_server(("10.0.0.2", 5001))
print("ready", flush=True)
buffer = bytearray(1 << 20)
while True:
    taken, _ = server.accept()
    while taken.recv_into(buffer):
        pass
"""
STREAM = """
import socket, sys, time
sock = socket.create_connection(("10.0.0.2", 5001))
data, total, begun = bytes(1 << 18), 0, time.perf_counter()
while time.perf_counter() - begun < float(sys.argv[1]):
    total += sock.send(data)
print(total * 8 / (time.perf_counter() - begun))
"""


class Namespace:
    """A network namespace with `here`, the VM's interface, whose other end is far away."""

    def __init__(self) -> None:
        script = (
            "mount -t sysfs sysfs /sys && echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 &&"
            "ip link add here address 02:00:00:00:00:01 type veth"
            " peer name there address 02:00:00:00:00:02 &&"
            "ip link set here up && ip address add 10.0.0.1/24 dev here &&"
            "ip link set lo up && echo ready && read end"
        )
        self._near = subprocess.Popen(
            ["unshare", "-n", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._far = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo ready; read end"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for process in (self._near, self._far):
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise RuntimeError("no network namespace: this needs root")
        self.run("ip", "link", "set", "there", "netns", str(self._far.pid))
        far = ["nsenter", "-t", str(self._far.pid), "-n"]
        subprocess.run([*far, "ip", "link", "set", "there", "up"], check=True)
        subprocess.run([*far, "ip", "address", "add", "10.0.0.2/24", "dev", "there"], check=True)
        self._sink = subprocess.Popen([*far, PYTHON, "-c", SINK], stdout=subprocess.PIPE)
        if self._sink.stdout is None or self._sink.stdout.readline() != b"ready\n":
            raise RuntimeError("no sink")

    def enter(self, *words: object) -> list[str]:
        """Return the command that runs `words` inside."""
        return ["nsenter", "-t", str(self._near.pid), "-n", "-m", *map(str, words)]

    def run(self, *words: str) -> str:
        """Run a command inside and return what it prints."""
        return subprocess.run(self.enter(*words), check=True, text=True, stdout=subprocess.PIPE).stdout

    def close(self) -> None:
        """End it, and the interfaces with it."""
        self._sink.kill()
        self._sink.wait()
        for process in (self._near, self._far):
            process.communicate(b"\n")


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process's threads have had, in seconds."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def rss_kb(pid: int) -> int:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("the process is gone")


def peers(directory: Path) -> Path:
    """Unpack the peers' packages below `directory`."""
    subprocess.run(
        ["apt-get", "-qq", "download", *PEERS], cwd=directory, check=True, stderr=subprocess.DEVNULL
    )
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, directory], check=True)
    return directory


@contextlib.contextmanager
def running(words: list[str], **environment: str) -> Iterator[int]:
    """Run a program in the background; nsenter and env exec, so the process is the program."""
    process = subprocess.Popen(
        words, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
        if process.poll() is not None:
            raise RuntimeError(f"{words} ended by itself with {process.returncode}")
    finally:
        process.kill()
        process.wait()


class Bench:
    """One daemon, one guest, one namespace, and the agent in them."""

    def __init__(self, directory: Path, daemon: xenstored_offline.Xenstored, namespace: Namespace) -> None:
        self.namespace = namespace
        self.directory = directory
        self.peers = peers(directory / "peers")
        daemon.create(DOMID)
        guest = daemon.guest(DOMID)
        self.device = guest._path  # noqa: SLF001  the harness's device
        guest.close()
        self.dom0 = StoreClient(daemon.socket)
        home = f"/local/domain/{DOMID}/xenwarden"
        self.dom0.mkdir(home)
        self.dom0.set_permissions(home, ["n0", f"r{DOMID}"])
        priors = defaults().profiles["unknown"]
        self.dom0.write(f"{home}/history", encode("history", 1, {"learnt": "0", **priors}))

    def agent(self, level: int) -> list[str]:
        """Return the agent's command, and order the level."""
        order = encode(
            "order", level, {"level": str(level), "level1_s": INTERVAL_S, "level2_s": 1, "level2_max_s": 600}
        )
        self.dom0.write(f"/local/domain/{DOMID}/xenwarden/order", order)
        return self.namespace.enter(
            "env",
            "-u",
            "PYTHONDONTWRITEBYTECODE",
            f"PYTHONPATH={ROOT}/domU:{ROOT}/xenstore",
            PYTHON,
            "-c",
            AGENT,
            "--store",
            self.device,
        )

    def report_seq(self) -> int:
        """Return the number of the agent's last report, 0 without one."""
        try:
            return parse(self.dom0.read(f"/local/domain/{DOMID}/data/xenwarden/report"), "report").seq
        except StoreError:
            return 0

    def start_s(self) -> float:
        """Return the median time from starting the agent to its first report."""
        found = []
        for _ in range(ROUNDS):
            with contextlib.suppress(StoreError):
                self.dom0.remove(f"/local/domain/{DOMID}/data/xenwarden/report")
            begun = time.monotonic()
            with running(self.agent(1)):
                while not self.report_seq():
                    time.sleep(0.005)
                found.append(time.monotonic() - begun)
        return statistics.median(found)

    def softflowd(self) -> list[str]:
        """Return softflowd's command: it follows flows and sends them nowhere."""
        program = self.peers / "usr/sbin/softflowd"
        socket = self.directory / "softflowd.ctl"
        return self.namespace.enter(
            "env", f"LD_LIBRARY_PATH={self.peers}/usr/lib/x86_64-linux-gnu",
            program, "-d", "-i", "here", "-n", "10.0.0.1:9995",
            "-c", socket, "-p", self.directory / "softflowd.pid",
        )  # fmt: skip

    def flood(self, pid: int | None) -> dict[str, float]:
        """Send a flood, then a stream; return what `pid` and the senders needed."""
        before = cpu_s(pid) if pid else 0.0
        wall, sender = map(float, self.namespace.run(PYTHON, "-c", SEND, str(PACKETS)).split())
        time.sleep(1.2)  # what is queued is read within a look
        own = cpu_s(pid) - before if pid else 0.0
        return {
            "usecs": (own + sender) * 1e6 / PACKETS,
            "own_pct": 100 * own / wall,
            "bps": float(self.namespace.run(PYTHON, "-c", STREAM, str(STREAM_S))),
        }

    def under_load(self) -> list[Figure]:
        """Measure a SYN flood and a TCP stream with the agent, with softflowd and with nothing, in turns."""
        found: dict[str, list[dict[str, float]]] = {}
        memory = 0
        for _ in range(ROUNDS):
            found.setdefault("nothing", []).append(self.flood(None))
            for level in (1, 2):
                with running(self.agent(level)) as pid:
                    time.sleep(2.5)
                    found.setdefault(f"level{level}", []).append(self.flood(pid))
                    memory = max(memory, rss_kb(pid))
            with running(self.softflowd()) as pid:
                time.sleep(2.5)
                found.setdefault("softflowd", []).append(self.flood(pid))
        # Others on the machine only ever add to CPU time and take from throughput.
        usecs = {kind: min(run["usecs"] for run in runs) for kind, runs in found.items()}
        bps = {kind: max(run["bps"] for run in runs) for kind, runs in found.items()}
        figures = [
            figure("agent.rss_flood", memory, "kB", peer="limit", peer_value=MOST_RSS_LEVEL2_KB, at_most=1),
            figure(
                "agent.flood_level1_cpu", usecs["level1"] - usecs["nothing"], "us/packet",
                peer="softflowd", peer_value=usecs["softflowd"] - usecs["nothing"], at_most=1,
            ),
        ]  # fmt: skip
        for level, most_pct, least in ((1, MOST_CPU_PCT, 0.95), (2, MOST_CPU_LEVEL2_PCT, 0.90)):
            own = statistics.median(run["own_pct"] for run in found[f"level{level}"])
            name = f"agent.flood_level{level}_own_cpu"
            figures.append(figure(name, own, "%", peer="limit", peer_value=most_pct, at_most=1))
            name = f"agent.stream_level{level}"
            stream = bps[f"level{level}"]
            figures.append(
                figure(name, stream, "bit/s", peer="no agent", peer_value=bps["nothing"], at_least=least)
            )
        return figures


def run() -> list[Figure]:
    """Measure; needs root and Debian's archive."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-agent-")))
        (directory / "peers").mkdir()
        shim = xenstored_offline.build_shim(directory)
        daemon = stack.enter_context(xenstored_offline.Xenstored("oxenstored", shim))
        namespace = Namespace()
        stack.callback(namespace.close)
        bench = Bench(directory, daemon, namespace)
        stack.callback(bench.dom0.close)
        start = figure("agent.start", bench.start_s(), "s", peer="limit", peer_value=MOST_START_S, at_most=1)
        figures = [start, *bench.under_load()]
    return [*figures, *agent_lab.run()]
