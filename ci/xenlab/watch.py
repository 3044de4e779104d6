# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask dom0 what became of the guests: by the product's own commands, by xl, tc and XenStore."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xenlab.link import Link
    from xenlab.scenario import Guest

# Limits as they stand on a guest, whoever set them: one `what|value` line each.
_LIMITS = r"""
name=$1; domid=$(xl domid "$name") || exit 0
echo "scheduler|$(xl sched-$2 -d "$name" | awk 'END { for (i = 3; i <= NF; i++) printf "%s ", $i }')"
echo "memory target|$(xenstore-read "/local/domain/$domid/memory/target")"
for path in /sys/class/net/vif"$domid".*; do
  [ -e "$path" ] || continue
  vif=${path##*/}; number=${vif##*.}
  # netback's own node: libxl writes it where the configuration has a rate
  rate=$(xenstore-read "/local/domain/0/backend/vif/$domid/$number/rate" 2>/dev/null)
  echo "rate of vif $number|$rate"
  echo "qdisc of vif $number|$(tc qdisc show dev "$vif" | tr '\n' ';')"
  for way in ingress egress; do
    echo "$way filters of vif $number|$(tc filter show dev "$vif" "$way" | tr '\n' ';')"
  done
done
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
    rows = [line.partition(":") for line in link.check("xl info").splitlines()]
    info = {name.strip(): value.strip() for name, _, value in rows}
    running = link.run(f"pidof {xenstored}")["status"] == 0
    return {
        "xen_version": info.get("xen_version", ""),
        "scheduler": info.get("xen_scheduler", ""),
        "xenstored": xenstored if running else "other",
    }


def environment(link: Link, guests: Iterable[Guest]) -> dict[str, str]:
    """Return the variables that commands of a scenario may use."""
    guests = list(guests)
    names = " ".join(shlex.quote(g.name) for g in guests)
    domids = link.check(f'for name in {names}; do xl domid "$name" || echo; done').split("\n")
    env = {"DOM0_IP": "10.0.0.1"}
    for guest, domid in zip(guests, domids, strict=False):
        prefix = guest.name.upper().replace("-", "_")
        env[f"{prefix}_IP"] = guest.address(0)
        env[f"{prefix}_MAC"] = guest.mac(0)
        env[f"{prefix}_UUID"] = guest.uuid
        env[f"{prefix}_DOMID"] = domid
        env[f"{prefix}_VIF"] = f"vif{domid}.0"
    return env


def standing_limits(link: Link, scheduler: str, guests: Iterable[Guest]) -> dict[str, dict[str, str]]:
    """Return what limits stand on each guest, read from Xen, XenStore and the kernel."""
    out: dict[str, dict[str, str]] = {}
    for guest in guests:
        text = link.check(f"set -- {shlex.quote(guest.name)} {scheduler}\n{_LIMITS}")
        out[guest.name] = {
            what: " ".join(value.split())
            for what, _, value in (line.partition("|") for line in text.splitlines())
        }
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
