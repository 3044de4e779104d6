# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden doctor`: look at this host and at the daemon, and say what to do about what is wrong.

Each check is a function of `Host` that yields findings; one that breaks is a finding too. `Host` reads
below a root directory, so that tests can show it any machine.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenwarden_host import __version__
from xenwarden_host.control.client import SOCKET_PATH, ControlClient, RefusedError, UnreachableError
from xenwarden_host.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OK, WARN, BAD, UNKNOWN = "ok", "warn", "bad", "unknown"

_UNITS = ("xenwardend.service", "xenwarden-agent-dom0.service")
_CAPPING = ("credit", "credit2")  # schedulers that know cap and weight
_MODULES = ("sch_ingress", "cls_flower", "cls_matchall", "act_police")  # what vif-pps and vif-in need
_REPORT_BYTES = 2000  # an agent's report is no larger
_FEW_NODES = 200  # a guest's own drivers take tens; below this its agent may find no room
_LEAST_FREE_MB = 100
_COMMAND_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found: `advice` says what to do, empty where all is well."""

    check: str
    state: str  # ok, warn, bad or unknown
    text: str
    advice: str = ""


class Host:
    """This machine as the checks see it."""

    def __init__(
        self, root: Path = Path("/"), run: Callable[[list[str]], str | None] | None = None, socket: str = ""
    ) -> None:
        self.root = root
        self.socket = socket or SOCKET_PATH
        self.run = run or _run

    def text(self, path: str) -> str | None:
        """Return the file's text, None where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None


def _run(argv: list[str]) -> str | None:
    """Return what a command printed, None where it is not here or does not answer."""
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_COMMAND_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


def examine(host: Host) -> list[Finding]:
    """Return what all checks found, in the order in which things depend on each other."""
    found: list[Finding] = []
    for name, check in _CHECKS.items():
        try:
            found += [Finding(name, *rest) for rest in check(host)]
        except Exception as error:
            found.append(Finding(name, UNKNOWN, f"this check failed: {error!r}", "please report it"))
    return found


def as_json(found: list[Finding]) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {"ok": all(item.state != BAD for item in found), "checks": [asdict(item) for item in found]}


# --- the host ------------------------------------------------------------------------------------------


def _xen(host: Host) -> Iterator[tuple[str, ...]]:
    capabilities = host.text("proc/xen/capabilities")
    if capabilities is None:
        yield (
            BAD,
            "Xen does not run, or xenfs is not mounted",
            "boot with Xen, then: mount -t xenfs xenfs /proc/xen",
        )
        return
    if "control_d" not in capabilities:
        yield BAD, "this is a guest, not dom0", "run xenwarden in dom0; a guest needs xenwarden-agent only"
        return
    if not (host.root / "dev/xen/privcmd").exists():
        yield BAD, "/dev/xen/privcmd is missing", "modprobe xen-privcmd"
        return
    version = [
        (host.text(f"sys/hypervisor/version/{part}") or "").strip() for part in ("major", "minor", "extra")
    ]
    yield OK, f"dom0 of Xen {version[0]}.{version[1]}{version[2]}" if version[0] else "dom0"


def _libxl(_host: Host) -> Iterator[tuple[str, ...]]:
    try:
        from xenwarden_host.libxl import _xenlight  # noqa: F401, PLC0415  it is what is checked
    except ImportError as error:
        yield (
            BAD,
            f"libxenlight cannot be used: {error}",
            "install the xenwarden that was built for this Xen release",
        )
        return
    yield OK, "the binding fits the libxenlight that is installed"


def _units(host: Host) -> Iterator[tuple[str, ...]]:
    if not (host.root / "run/systemd/system").is_dir():
        yield UNKNOWN, "systemd does not run here", "see to it that xenwardend is started at boot"
        return
    for unit in _UNITS:
        told = (
            host.run(["systemctl", "show", "-p", "LoadState,ActiveState,UnitFileState,NRestarts", unit]) or ""
        )
        state = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
        if state.get("LoadState") != "loaded":
            yield BAD, f"{unit} is not installed", "install it from xenwarden's package"
        elif state.get("ActiveState") == "failed":
            yield BAD, f"{unit} has failed", f"journalctl -u {unit}; then: systemctl restart {unit}"
        elif state.get("ActiveState") != "active":
            yield BAD, f"{unit} is {state.get('ActiveState')}", f"systemctl start {unit}"
        elif state.get("UnitFileState") == "disabled":
            yield WARN, f"{unit} runs and would not after a reboot", f"systemctl enable {unit}"
        elif state.get("NRestarts", "0") != "0":
            yield WARN, f"{unit} was restarted {state['NRestarts']} times", f"journalctl -u {unit}"
        else:
            yield OK, f"{unit} runs"


def _xenstored(host: Host) -> Iterator[tuple[str, ...]]:
    for path in sorted((host.root / "proc").glob("[0-9]*/comm")):
        kind = (host.text(str(path.relative_to(host.root))) or "").strip()
        if kind in ("xenstored", "oxenstored"):
            break
    else:
        yield (
            UNKNOWN,
            "no xenstored runs in this domain",
            "systemctl status xenstored; a stub domain is fine too",
        )
        return
    if kind == "oxenstored":
        quotas = _oxenstored_quotas(host.text("etc/xen/oxenstored.conf") or "")
        if quotas.get("quota-activate", "true") != "true":
            yield (
                WARN,
                "oxenstored runs without quotas: a guest can fill it",
                "quota-activate = true in oxenstored.conf",
            )
            return
        nodes, size = quotas.get("quota-maxentity", "1000"), quotas.get("quota-maxsize", "2048")
    else:
        words = (host.text(str(path.parent.relative_to(host.root) / "cmdline")) or "").split("\0")
        nodes, size = (
            _value(words, ("-E", "--entry-nb"), "1000"),
            _value(words, ("-S", "--entry-size"), "2048"),
        )
    what = f"{kind}, {nodes} nodes and {size} bytes a value for each guest"
    if int(nodes) < _FEW_NODES or int(size) < _REPORT_BYTES:
        yield WARN, what, f"agents need {_REPORT_BYTES} bytes a value and some ten nodes: raise the quota"
    else:
        yield OK, what


def _oxenstored_quotas(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _value(words: list[str], flags: tuple[str, ...], default: str) -> str:
    """Return the value that follows one of the flags, as `-E 500` or `--entry-nb=500`."""
    for index, word in enumerate(words):
        flag, _, value = word.partition("=")
        if flag in flags:
            return value or words[index + 1]
    return default


def _network(host: Host) -> Iterator[tuple[str, ...]]:
    if (host.root / "sys/module/xen_netback").exists():
        yield OK, "netback is loaded: vif-rate works"
    else:
        yield (
            WARN,
            "netback is not loaded in dom0: vif limits have nothing to act on",
            ("modprobe xen-netback; with a driver domain for networks vif limits cannot work"),
        )
    release = (host.text("proc/sys/kernel/osrelease") or "").strip()
    known = (host.text("proc/modules") or "") + (host.text(f"lib/modules/{release}/modules.dep") or "")
    known += host.text(f"lib/modules/{release}/modules.builtin") or ""
    missing = [name for name in _MODULES if name not in known]
    if missing:
        yield (
            WARN,
            f"the kernel lacks {', '.join(missing)}: vif-pps and vif-in are unsupported",
            "use a kernel that has them",
        )
    else:
        yield OK, "the kernel can limit packets: vif-pps and vif-in work"


def _disks(host: Host) -> Iterator[tuple[str, ...]]:
    controllers = (host.text("sys/fs/cgroup/cgroup.controllers") or "").split()
    if "io" in controllers:
        yield OK, "cgroup v2 can limit disks: vbd-io works where blkback serves them"
    else:
        yield (
            WARN,
            "no cgroup v2 with io: vbd-io is unsupported",
            "boot dom0 with systemd.unified_cgroup_hierarchy=1",
        )


def _clock(host: Host) -> Iterator[tuple[str, ...]]:
    source = (host.text("sys/devices/system/clocksource/clocksource0/current_clocksource") or "?").strip()
    told = host.run(["timedatectl", "show", "-p", "NTPSynchronized", "--value"])
    if told is not None and told.strip() == "no":
        yield (
            WARN,
            f"clock source {source}, not synchronised: times of events may be off",
            "timedatectl set-ntp true",
        )
    else:
        yield OK, f"clock source {source}" + (", synchronised" if told and told.strip() == "yes" else "")


def _policy(host: Host) -> Iterator[tuple[str, ...]]:
    from xenwarden_host.control.peers import Role, Roles  # noqa: PLC0415  heavy, as the policy's reader
    from xenwarden_host.policy.load import load  # noqa: PLC0415  likewise

    path = host.root / "etc/xen/xenwarden.yaml"
    try:
        policy = load(path if path.exists() else None)
    except ConfigError as error:
        yield BAD, f"the policy is refused: {error.message.splitlines()[0]}", f"xenwarden policy check {path}"
        return
    unknown = Roles({Role[role.name]: groups for role, groups in policy.roles.items()}).unknown
    if unknown:
        yield (
            WARN,
            f"roles name groups that do not exist: {', '.join(unknown)}",
            f"groupadd --system {unknown[0]}",
        )
    else:
        yield OK, str(path) if path.exists() else "what is shipped"


def _database(host: Host) -> Iterator[tuple[str, ...]]:
    path = host.root / "var/lib/xenwarden"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        damaged = sorted(path.glob("state.db.damaged-*"))
    except FileNotFoundError:
        yield UNKNOWN, f"{path} is not there yet", "xenwardend makes it when it starts first"
        return
    except PermissionError:
        yield UNKNOWN, f"{path} is root's own", "run xenwarden doctor as root"
        return
    free_mb = shutil.disk_usage(path).free // 2**20
    if mode & 0o077:
        yield BAD, f"{path} can be entered by others (mode {mode:o})", f"chmod 700 {path}"
    if damaged:
        yield WARN, f"a damaged database was set aside: {damaged[0]}", "look with sqlite3, then move it away"
    if free_mb < _LEAST_FREE_MB:
        yield BAD, f"only {free_mb} MB are free for {path}: no new limit may be set", "free some space"
    if not mode & 0o077 and not damaged and free_mb >= _LEAST_FREE_MB:
        yield OK, f"{path}, {free_mb} MB free"


# --- the daemon ----------------------------------------------------------------------------------------


def _daemon(host: Host) -> Iterator[tuple[str, ...]]:
    try:
        client = ControlClient(host.socket)
        listed, told, limits = client.ask("list"), client.ask("doctor"), client.ask("limits")
    except UnreachableError as error:
        yield BAD, error.message, error.hint or "systemctl status xenwardend"
        return
    except RefusedError as error:
        yield UNKNOWN, error.message, error.hint or "run xenwarden doctor as root"
        return
    daemon = listed["daemon"]
    if daemon["version"] != __version__:
        yield (
            WARN,
            f"xenwardend is {daemon['version']}, this command {__version__}",
            "systemctl restart xenwardend",
        )
    else:
        yield OK, f"xenwardend {daemon['version']} answers"
    for where, count in daemon["errors"].items():
        yield WARN, f"{count} failures survived in {where}", "journalctl -u xenwardend"
    for notice in listed["notices"]:
        yield WARN, notice, "see xenwardend(8)"
    for node, why in told["refused_nodes"].items():
        yield WARN, f"{node} is refused: {why}", f"write a good value, or: xenstore-rm {node}"
    if told["scheduler"] in _CAPPING:
        yield OK, f"scheduler {told['scheduler']}: cap and weight work"
    else:
        yield (
            WARN,
            f"scheduler {told['scheduler'] or 'unknown'}: no cap, no weight",
            "boot Xen with sched=credit2",
        )
    for limit in limits:
        if limit["state"] in ("failed", "unsupported"):
            yield (
                WARN,
                f"{limit['kind']} of {limit['name']} is {limit['state']}: {limit['detail']}",
                (f"xenwarden limits {limit['name']}"),
            )
    yield from _agents(listed["vms"], told["agent_versions"])


def _agents(vms: list[dict[str, Any]], versions: dict[str, list[str]]) -> Iterator[tuple[str, ...]]:
    by_state: dict[str, list[str]] = {}
    for vm in vms:
        by_state.setdefault(vm["agent"], []).append(vm["name"])
    for state, advice in (
        ("absent", "install xenwarden-agent there; until then dom0's own eyes judge"),
        ("silent", "look there: systemctl status xenwarden-agent"),
        ("garbled", "it writes what is no report: look at that VM"),
        ("version", "install the same release of xenwarden there"),
    ):
        if state in by_state:
            yield WARN, f"agents {state}: {_some(by_state[state])}", advice
    for version, names in versions.items():
        if version != __version__:
            yield WARN, f"agent {version}: {_some(names)}", f"bring it to {__version__}"
    if set(by_state) == {"alive"} and set(versions) == {__version__}:
        yield OK, f"all {len(vms)} agents report, version {__version__}"


def _some(names: list[str]) -> str:
    """Return the names, of many only the first ones."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


_CHECKS: dict[str, Callable[[Host], Iterator[tuple[str, ...]]]] = {
    "xen": _xen,
    "libxl": _libxl,
    "units": _units,
    "xenstored": _xenstored,
    "network": _network,
    "disks": _disks,
    "clock": _clock,
    "policy": _policy,
    "database": _database,
    "daemon": _daemon,
}
