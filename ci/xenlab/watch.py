# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask dom0 what became of the guests: by the product's own commands, by xl, tc and XenStore."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from xenlab.link import Link
    from xenlab.scenario import Guest

# What limits stand, whoever set them, in sections that begin with `== NAME`. Arguments: scheduler, domids.
# Few processes on purpose: under TCG each costs a tenth of a second.
_LIMITS = r"""
scheduler=$1; shift
echo "== sched"; xl "sched-$scheduler"
echo "== qdisc"; tc qdisc show
paths=
for domid in "$@"; do paths="$paths /local/domain/$domid/memory/target"; done
echo "== memory"; xenstore-read $paths
# netback's own node: libxl writes it where the configuration has a rate
echo "== rate"; xenstore-ls -f /local/domain/0/backend/vif | grep '/rate = '
for vif in /sys/class/net/vif*; do
  [ -e "$vif" ] || continue
  for way in ingress egress; do
    echo "== $way ${vif##*/}"; tc filter show dev "${vif##*/}" "$way"
  done
done
exit 0
"""

_DAEMON = r"""
import json, os, subprocess
pid = json.loads(subprocess.check_output(["xenwarden", "--json", "list"]))["daemon"]["pid"]
tick = os.sysconf("SC_CLK_TCK")
fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
rss = next(l.split()[1] for l in open(f"/proc/{pid}/status") if l.startswith("VmRSS"))
up = float(open("/proc/uptime").read().split()[0])
print(json.dumps({"rss_kb": int(rss), "cpu_s": (int(fields[11]) + int(fields[12])) / tick,
                  "wall_s": round(up - int(fields[19]) / tick, 2)}))
"""


def host_facts(link: Link, xenstored: str) -> dict[str, str]:
    """Return `xen_version`, `scheduler` and `xenstored` as dom0 sees them."""
    text = link.check(f"xl info; pidof {xenstored} >/dev/null && echo 'runs : {xenstored}'; true")
    info = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())
    }
    return {
        "xen_version": info.get("xen_version", ""),
        "scheduler": info.get("xen_scheduler", ""),
        "xenstored": info.get("runs", "other"),
    }


def domids(link: Link) -> dict[str, int]:
    """Return the domain ids of all domains by name."""
    rows = (line.split() for line in link.check("xl list").splitlines()[1:])
    return {row[0]: int(row[1]) for row in rows}


def environment(guests: Iterable[Guest], ids: Mapping[str, int]) -> dict[str, str]:
    """Return the variables that commands of a scenario may use."""
    env = {"DOM0_IP": "10.0.0.1"}
    for guest in guests:
        prefix = guest.name.upper().replace("-", "_")
        env[f"{prefix}_IP"] = guest.address(0)
        env[f"{prefix}_MAC"] = guest.mac(0)
        env[f"{prefix}_UUID"] = guest.uuid
        if guest.name in ids:
            env[f"{prefix}_DOMID"] = str(ids[guest.name])
            env[f"{prefix}_VIF"] = f"vif{ids[guest.name]}.0"
    return env


def standing_limits(
    link: Link, scheduler: str, guests: Iterable[Guest], ids: Mapping[str, int]
) -> dict[str, dict[str, str]]:
    """Return what limits stand on each guest, read from Xen, XenStore and the kernel."""
    here = [(g.name, ids[g.name]) for g in guests if g.name in ids]
    text = link.check(f"set -- {scheduler} {' '.join(str(domid) for _, domid in here)}\n{_LIMITS}")
    return parse_limits(text, here)


def parse_limits(text: str, here: Sequence[tuple[str, int]]) -> dict[str, dict[str, str]]:
    """Return the limits by guest and kind from what `_LIMITS` printed for these names and domids."""
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("== "):
            lines = sections.setdefault(line[3:], [])
        else:
            lines.append(" ".join(line.split()))
    out: dict[str, dict[str, str]] = {}
    for (name, domid), memory in zip(here, sections["memory"], strict=True):
        rows = [line.split() for line in sections["sched"]]
        found = {"memory target": memory, "scheduler": next(" ".join(r[2:]) for r in rows if r[:1] == [name])}
        vif = f"vif{domid}."
        for line in sections["qdisc"]:
            device = re.search(rf" dev {re.escape(vif)}(\d+) ", line)
            if device:
                # Without its name: a VM that was saved and restored has another domid.
                told = line.replace(device[0], " ")
                found[f"qdisc of vif {device[1]}"] = f"{found.get(f'qdisc of vif {device[1]}', '')}{told};"
        for line in sections["rate"]:
            path, _, value = line.partition(" = ")
            if path.startswith(f"/local/domain/0/backend/vif/{domid}/"):
                found[f"rate of vif {path.split('/')[7]}"] = value.strip('"')
        for title, lines in sections.items():
            way, _, device_name = title.partition(" ")
            if device_name.startswith(vif) and lines:
                found[f"{way} filters of vif {device_name.removeprefix(vif)}"] = ";".join(lines)
        out[name] = found
    return out


def daemon(link: Link) -> dict[str, Any]:
    """Return the daemon's memory and CPU time since its start, from /proc."""
    found: dict[str, Any] = json.loads(link.check(f"python3 -c {shlex.quote(_DAEMON)}"))
    return found


def guest_result(
    link: Link, name: str, to_t_s: Callable[[float | None], float | None]
) -> dict[str, Any] | None:
    """Return the part of the result that is about guest `name`, None where the product does not know it."""
    answer = link.run(f"xenwarden --json show {shlex.quote(name)}")
    if answer["status"] != 0:
        return None
    shown = json.loads(answer["output"])
    agent = shown["agent"]
    return {
        "domid": shown["domid"],
        "uuid": shown["uuid"],
        "type": shown["type"],
        "state": shown["state"],
        "verdict": shown["verdict"],
        "also_victim": shown["also_victim"],
        "why": shown["why"],
        "levels": [{"t_s": to_t_s(x["t_mono_s"]), "level": x["level"]} for x in shown["levels"]],
        "limits": [
            {"t_s": to_t_s(x["t_mono_s"]), "kind": x["kind"], "value": x["value"], "original": x["original"]}
            for x in shown["limits"]
        ],
        "verdict_t_s": to_t_s(shown["verdict_t_mono_s"]),
        "released_t_s": to_t_s(shown["released_t_mono_s"]),
        "agent": {key: agent[key] for key in ("rss_kb", "cpu_s", "wall_s")}
        if agent and agent["rss_kb"] is not None
        else None,
    }


def bare_guest(link: Link, guest: Guest) -> dict[str, Any]:
    """Return the same shape for a guest that no product watches."""
    domid = link.run(f"xl domid {shlex.quote(guest.name)}")["output"].strip()
    return {
        "domid": int(domid) if domid.isdigit() else None,
        "uuid": guest.uuid,
        "type": guest.type,
        "state": None,
        "verdict": None,
        "also_victim": False,
        "why": "",
        "levels": [],
        "limits": [],
        "verdict_t_s": None,
        "released_t_s": None,
        "agent": None,
    }
