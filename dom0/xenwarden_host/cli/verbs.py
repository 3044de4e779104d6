# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one table of verbs. The parser, `--help`, the man page and the completion are made from it.

`json` of a verb are the members of what `--json` prints: stable, members are only added.
"""

from __future__ import annotations

DOMAIN = "DOMAIN"  # the metavar that completion fills with VM names
FILE, PATH = "FILE", "PATH"  # the metavars that completion fills with files
EITHER = f"{DOMAIN}|{FILE}"  # with both
_MANY = 4


class Argument:
    """A positional argument: its metavar, or the words to choose from."""

    __slots__ = ("choices", "many", "metavar", "required")

    def __init__(
        self, metavar: str, *, required: bool = True, choices: tuple[str, ...] = (), many: bool = False
    ) -> None:
        self.metavar = metavar
        self.required = required
        self.choices = choices
        self.many = many  # may be given several times; the last one only

    def __str__(self) -> str:
        text = "|".join(self.choices) if self.choices else self.metavar + ("..." if self.many else "")
        return text if self.required else f"[{text}]"


class Option:
    """A flag, with a value where `metavar` says so."""

    __slots__ = ("flags", "help", "metavar", "name")

    def __init__(self, flags: tuple[str, ...], help_text: str, *, metavar: str = "") -> None:
        self.flags = flags
        self.help = help_text
        self.metavar = metavar
        self.name = flags[-1].lstrip("-").replace("-", "_")


class Verb:
    """One verb: `summary` is one line, `text` a paragraph, `examples` pairs of command and what it does."""

    __slots__ = ("arguments", "changes", "examples", "json", "name", "options", "summary", "text")

    def __init__(
        self,
        name: str,
        summary: str,
        text: str,
        *,
        arguments: tuple[Argument, ...] = (),
        options: tuple[Option, ...] = (),
        examples: tuple[tuple[str, str], ...] = (),
        json: tuple[tuple[str, str], ...] = (),
        changes: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.text = text
        self.arguments = arguments
        self.options = options
        self.examples = examples
        self.json = json
        self.changes = changes

    def usage(self) -> str:
        """Return the verb with its arguments, as `release [--all] [DOMAIN]`; many options are not named."""
        if len(self.options) > _MANY:
            return " ".join([self.name, "[OPTION...]", *map(str, self.arguments)])
        flags = [
            f"[{'|'.join(option.flags)}{' ' + option.metavar if option.metavar else ''}]"
            for option in self.options
        ]
        return " ".join([self.name, *flags, *map(str, self.arguments)])


GLOBAL_OPTIONS = (
    Option(("-h", "--help"), "Say how to use xenwarden, or the verb."),
    Option(("--json",), "Print JSON instead of text."),
    Option(("-N", "--dry-run"), "Say what would change, change nothing."),
    Option(("-v", "--verbose"), "Say more."),
    Option(("--socket",), "Use the control socket PATH.", metavar=PATH),
)

_KINDS = "cap, weight, vif-rate, vif-in, vif-pps/CLASS, vbd-io, memory, vcpus or pause"
_UNITS = "cap: percent of one CPU; vif: bit/s or packets per second; vbd: byte/s; memory: kB"

_LIMIT_NOW = (
    ("kind", _KINDS),
    ("value", f"what was decided; {_UNITS}"),
    ("set", "what was made of the original, in the same words; null: nothing yet"),
    ("read_back", "what stood there when it was last read; null: nothing"),
    ("original", "what was there before, as it will be put back; null: nothing"),
    ("state", "pending, set, unsupported, failed, no-target or protected, after reading back"),
    ("owner", "hsem, hrem or operator:NAME"),
    ("why", "the reason, one sentence"),
    ("since_unix_s", "when it was first wanted"),
    ("until_unix_s", "when it lapses by itself; null: never"),
    ("took_s", "from the decision until it was read back as set; null: decided before the daemon began"),
    ("detail", "what is wrong where the state is not set"),
)

_EVENT = (
    ("id", "rises by one; null where the entry could not be stored"),
    ("unix_s", "when"),
    ("mono_s", "when, dom0's CLOCK_MONOTONIC"),
    (
        "event",
        "what kind: state, verdict, level, order, ask, alert, limit-set, limit-failed, grant, balance, …",
    ),
    ("uuid", "the VM; empty where it is about the host"),
    ("name", "the VM's name"),
    ("who", "hsem, hrem, xenwardend or operator:USER"),
    ("text", "one sentence"),
    ("data", "the event's own figures"),
)

_PLACES = (
    Option(("--state-dir",), "The state directory (/var/lib/xenwarden).", metavar=PATH),
    Option(("--config",), "The policy (/etc/xen/xenwarden.yaml).", metavar=PATH),
)

_EVIDENCE = (
    ("evidence", "list of what it rests on"),
    ("evidence[].signal", "name of the signal"),
    ("evidence[].value", "what it was"),
    ("evidence[].usual", "the upper limit of what is usual"),
    ("evidence[].unit", "unit of both"),
    ("evidence[].source", "vsem, vrem or hrem: who measured it"),
    ("evidence[].rule", "the detector"),
    ("evidence[].text", "one sentence"),
)

_LIMITS_NOW = (
    ("limits_now", "limits wanted now"),
    *((f"limits_now[].{name}", meaning) for name, meaning in _LIMIT_NOW),
)

VERBS = (
    Verb(
        "list",
        "List the VMs with level, state, verdict, agent and limits.",
        "One line for each VM, dom0 first. What an admin should know besides (the kill switch is on, "
        "a damaged database was set aside, XenStore is lost) is said on standard error.",
        examples=(("xenwarden list", "All VMs."), ("xenwarden --json list", "The same for a script.")),
        json=(
            ("vms", "list of VMs"),
            ("vms[].name", "the VM's name"),
            ("vms[].domid", "its domain id now"),
            ("vms[].uuid", "its UUID"),
            ("vms[].type", "pv, pvh, hvm or dom0"),
            ("vms[].state", "normal, watched, contained or protected"),
            ("vms[].level", "1 or 2"),
            ("vms[].verdict", "the last one: attacker, victim, neither or null"),
            ("vms[].agent", "absent, alive, silent, garbled or version"),
            ("vms[].limits", "kinds of the limits in force"),
            ("kill_switch", "the file that engages it, or null"),
            ("notices", "sentences that an admin should know"),
            ("daemon", "xenwardend itself"),
            ("daemon.version", "its version"),
            ("daemon.pid", "its process id"),
            ("daemon.dry_run", "whether it changes nothing"),
            ("daemon.up_s", "seconds since it started"),
            ("daemon.cpu_s", "CPU seconds that it used"),
            ("daemon.rss_kb", "its resident memory"),
            ("daemon.ticks", "decisions made"),
            ("daemon.errors.NAME", "failures survived, by where they happened"),
            ("daemon.store", "connected or lost"),
        ),
    ),
    Verb(
        "top",
        "Show all VMs live, with load and last event; limit and release.",
        "Like xentop(1). Those that are limited or watched stand first, then those that use most CPU. Keys: "
        "arrows choose a VM and enter shows it with its signals over ten minutes; s and S sort by the next "
        "or previous column, R reverses; / filters; l limits the VM and r releases it, each after a "
        "question; ? tells them all, q ends. CPU and cap are in percent of one CPU. Out is what the VM "
        "sends, in what reaches it, both as dom0 counts it. Rate is xenwarden's limit on out. PSI is "
        "the longest wait for CPU, memory or I/O that its agent tells.",
        options=(
            Option(("-b", "--batch"), "Print plain text, for a file or a pipe."),
            Option(("-d", "--delay"), "Ask every SECONDS (2).", metavar="SECONDS"),
            Option(("-n", "--iterations"), "End after NUMBER times.", metavar="NUMBER"),
            Option(
                ("-s", "--sort"),
                "Sort by COLUMN (state), such as name, cpu, out, pressure or event.",
                metavar="COLUMN",
            ),
            Option(
                ("-f", "--filter"),
                "Only VMs with TEXT in name, UUID, state, verdict or limits.",
                metavar="TEXT",
            ),
        ),
        examples=(
            ("xenwarden top", "Look, and act."),
            ("xenwarden top -b -n 3 -d 10", "Three times, ten seconds apart, as text."),
            ("xenwarden --json top -n 1 -s cpu", "Once, for a script; one object on a line each time."),
        ),
        json=(
            ("unix_s", "when"),
            ("host", "the host's name"),
            ("cpus", "CPUs of the host; null: not known"),
            ("notices", "sentences that an admin should know"),
            ("vms", "list of VMs, sorted and filtered"),
            ("vms[].name", "the VM's name"),
            ("vms[].domid", "its domain id now"),
            ("vms[].uuid", "its UUID"),
            ("vms[].type", "pv, pvh, hvm or dom0"),
            ("vms[].state", "normal, watched, contained or protected"),
            ("vms[].level", "1 or 2"),
            ("vms[].verdict", "the last one: attacker, victim, neither or null"),
            ("vms[].agent", "absent, alive, silent, garbled or version"),
            ("vms[].limits", "kinds of the limits in force"),
            ("vms[].vcpus", "vCPUs online"),
            ("vms[].cpu_pct", "CPU time received, in percent of one CPU; null: not known yet"),
            ("vms[].cap", "its cap in percent of one CPU, whoever set it; 0: none; null: not known"),
            ("vms[].tx_bps", "bits per second that it sends, by dom0's count; null: no vif"),
            ("vms[].rx_bps", "bits per second that reach it; null: no vif"),
            ("vms[].rate_bps", "xenwarden's limit on the bits per second that it sends; null: none"),
            ("vms[].pressure_pct", "the highest of its PSI figures, by its own word; null: it does not say"),
            ("vms[].event", "its last event; null: none"),
            ("vms[].event.unix_s", "when"),
            ("vms[].event.text", "one sentence"),
        ),
    ),
    Verb(
        "show",
        "Show all that is known of one VM.",
        "State, verdict with its evidence, the agent, signals beside what is usual for this VM, "
        "limits in force and what was there before.",
        arguments=(Argument(DOMAIN),),
        examples=(("xenwarden show mallory", "By name."), ("xenwarden show 3", "By domain id.")),
        json=(
            ("name", "the VM's name"),
            ("domid", "its domain id now"),
            ("uuid", "its UUID"),
            ("type", "pv, pvh, hvm or dom0"),
            ("state", "normal, watched, contained or protected"),
            ("level", "1 or 2"),
            ("verdict", "the last one: attacker, victim, neither or null"),
            ("level_ordered", "the level that an operator ordered; 1: nobody did"),
            ("also_victim", "whether this attacker is a victim too"),
            ("why", "the reason of the last change of state"),
            *_EVIDENCE,
            ("agent", "the VM's agent, null where none ever reported"),
            ("agent.state", "absent, alive, silent, garbled or version"),
            ("agent.version", "its version, as it says"),
            ("agent.rss_kb", "its memory, as it says"),
            ("agent.cpu_s", "its CPU time, as it says"),
            ("agent.wall_s", "its uptime, as it says"),
            ("agent.age_s", "seconds since its last report"),
            ("agent.refused", "values of it that were no messages"),
            ("signals", "by name, as far as measured"),
            ("signals.NAME.value", "the last value"),
            ("signals.NAME.usual", "the upper limit of what is usual, null where not known"),
            ("signals.NAME.unit", "unit of both"),
            ("signals.NAME.source", "vsem, vrem or hrem: who measured it"),
            (
                "missing",
                "signals that are not known though they could be; at level 2 those of dom0's own agent, too",
            ),
            ("devices", "dom0's counters of each of the VM's devices, by its name in sysfs"),
            ("devices.NAME.SIGNAL", "rate over the last tick: packets, bits, requests, events, per second"),
            ("trace", "at level 2: HREM's bursts of Xen's trace, one for all VMs; else null"),
            ("trace.read_kb", "what was read of the last burst, null before there was one"),
            ("trace.took_ms", "CPU time of dom0 that reading it took"),
            ("trace.why_not", "why there are no bursts, empty where there are"),
            ("levels", "changes of level since the daemon started"),
            ("levels[].t_mono_s", "when, dom0's CLOCK_MONOTONIC"),
            ("levels[].unix_s", "when"),
            ("levels[].level", "1 or 2"),
            ("limits", "limits set since the daemon started, lifted ones too"),
            ("limits[].t_mono_s", "when, dom0's CLOCK_MONOTONIC"),
            ("limits[].unix_s", "when"),
            ("limits[].kind", _KINDS),
            ("limits[].value", _UNITS),
            ("limits[].original", "what was there before; null: nothing"),
            *_LIMITS_NOW,
            ("xenstore", "what the VM holds of its quotas in XenStore; null where the daemon does not tell"),
            ("xenstore.nodes", "nodes that it owns"),
            ("xenstore.watches", "watches"),
            ("xenstore.transactions", "transactions that are open"),
            ("xenstore.transaction_held_s", "for how long it holds a transaction open; null: it does not"),
            ("grants", "what the VM has beyond its own, since it asked for it"),
            ("grants[].kind", "memory, vcpus or weight"),
            ("grants[].value", "what it has in all; memory in kB"),
            ("grants[].own", "what it has of its own, and will have again"),
            ("grants[].why", "the reason, one sentence"),
            ("grants[].since_unix_s", "when it was granted"),
            ("verdict_t_mono_s", "when the verdict came, dom0's CLOCK_MONOTONIC; null where there is none"),
            (
                "released_t_mono_s",
                "when the last limit was lifted again; null while limited or never limited",
            ),
        ),
    ),
    Verb(
        "why",
        "Say in words why a VM is in its state.",
        "The state, what led to it, each piece of evidence as a sentence, limits in force, last events.",
        arguments=(Argument(DOMAIN),),
        examples=(("xenwarden why mallory", "Why mallory is limited."),),
        json=(
            ("name", "the VM's name"),
            ("state", "normal, watched, contained or protected"),
            ("verdict", "the last one, or null"),
            ("why", "the reason of the last change of state"),
            *_EVIDENCE,
            *_LIMITS_NOW,
            ("events", "the VM's last events"),
            *((f"events[].{name}", meaning) for name, meaning in _EVENT),
        ),
    ),
    Verb(
        "limits",
        "List the limits in force and what was there before.",
        "One line for each limit: what was decided, what was set for it, what was read back, what was there "
        "before, who decided it, until when and why.",
        arguments=(Argument(DOMAIN, required=False),),
        examples=(("xenwarden limits", "Of all VMs."), ("xenwarden limits mallory", "Of one VM.")),
        json=(
            ("name", "the VM's name"),
            ("uuid", "its UUID"),
            *_LIMIT_NOW,
        ),
    ),
    Verb(
        "limit",
        "Limit a VM; with no limit named, show its limits.",
        "Takes effect at once and is read back: exit status 1 where a limit does not stand. Of what is "
        "decided for one VM and one kind, an operator's order counts before HSEM's decision, and that before "
        "HREM's balance; what counted less holds again when the order lapses, is taken back (none) or "
        "released. An original that is stricter stays. dom0, driver and stub domains, and VMs that the "
        "policy exempts, are never limited. Amounts are written as xl(1) takes them: in a rate b is bits, B "
        "is bytes, and K, M, G are powers of ten. Classes of packets are syn, udp, icmp, which are requests, "
        "and, where it is named, tcp: all of TCP to ports below 32768, as a client sends to services.",
        arguments=(Argument(DOMAIN),),
        options=(
            Option(("--cap",), "CPU time in percent of one CPU; 0 or none: no order.", metavar="PERCENT"),
            Option(("--weight",), "Scheduler weight, 1 to 65535.", metavar="WEIGHT"),
            Option(("--vif-rate",), "What the VM sends, as 10Mb/s or 10Mb/s@50ms.", metavar="RATE"),
            Option(("--vif-in",), "What reaches the VM, as 10Mb/s.", metavar="RATE"),
            Option(
                ("--vif-pps",),
                "Requests that it sends per second: 100, or by class syn=100,udp=none,arp=20.",
                metavar="NUMBER",
            ),
            Option(("--vbd-io",), "What it reads, and what it writes, on disks, as 10MB/s.", metavar="RATE"),
            Option(
                ("--memory",), "Memory to balloon down to, as 512m; a bare number is MiB.", metavar="SIZE"
            ),
            Option(("--vcpus",), "vCPUs that it may use.", metavar="NUMBER"),
            Option(("--pause",), "Do not let it run; taken back by release."),
            Option(("--for",), "Lapses by itself, as 90s, 10m, 2h or 1d.", metavar="TIME"),
        ),
        examples=(
            ("xenwarden limit mallory", "What limits it has."),
            ("xenwarden limit mallory --vif-rate 10Mb/s --for 10m", "For ten minutes."),
            ("xenwarden limit mallory --cap none", "Take that order back."),
        ),
        json=(
            ("name", "the VM's name"),
            ("uuid", "its UUID"),
            ("ordered", "what was ordered; empty where limits are only shown"),
            ("ordered[].kind", _KINDS),
            ("ordered[].value", "the order; null: taken back"),
            ("ordered[].was", "the value that held before; null: none"),
            ("limits_now", "limits wanted now"),
            *((f"limits_now[].{name}", meaning) for name, meaning in _LIMIT_NOW),
        ),
        changes=True,
    ),
    Verb(
        "release",
        "Lift the limits of a VM and put back what was there before.",
        "All of them, an operator's orders too. HSEM goes back to watching the VM from the beginning: it can "
        "limit it again on new evidence. "
        "For no limits at all, see kill-switch.",
        arguments=(Argument(DOMAIN, required=False),),
        options=(Option(("--all",), "Release every VM."),),
        examples=(
            ("xenwarden release mallory", "Release one VM."),
            ("xenwarden -N release --all", "Say what would be lifted."),
        ),
        json=(
            ("name", "the VM's name"),
            ("uuid", "its UUID"),
            ("state", "the state that it was released from"),
            ("lifted", "kinds of the limits that were lifted"),
        ),
        changes=True,
    ),
    Verb(
        "level",
        "Order the level of a VM's agent.",
        "With 2 the agent looks closer, in short intervals and in detail, until 1 is ordered: no verdict, "
        "release or restart of xenwardend ends it. With 1 HSEM and the agent decide again, as they do where "
        "nothing was ordered. Nothing is limited by it.",
        arguments=(Argument(DOMAIN), Argument("LEVEL", choices=("1", "2"))),
        examples=(
            ("xenwarden level mallory 2", "Look closer at mallory from now on."),
            ("xenwarden level mallory 1", "Leave it to HSEM again."),
        ),
        json=(
            ("name", "the VM's name"),
            ("uuid", "its UUID"),
            ("was", "the level that was ordered before, 1 or 2"),
            ("ordered", "the level that is ordered now"),
        ),
        changes=True,
    ),
    Verb(
        "capacity",
        "Tell how full the host is, and which VMs are near their maximum.",
        "Who is often close to what its vCPUs can give, who waits for CPU more than is usual for it, what is "
        "left, what one more VM such as the middling one here would do, which VM to move away, and what the "
        "balancer would change (policy: balance).",
        examples=(("xenwarden capacity", "Look before another VM is started."),),
        json=(
            ("cpus", "CPUs of the host"),
            ("cpus_used", "of these, used now, dom0 included"),
            ("vcpus", "vCPUs of all VMs"),
            ("memory_kb", "memory of the host"),
            ("free_kb", "of this, free"),
            ("keeps_kb", "of the free memory, what is for nobody"),
            ("one_more", "one more VM with middling values; null where none runs"),
            ("one_more.vcpus", "its vCPUs"),
            ("one_more.memory_kb", "its memory"),
            ("one_more.cpus_used", "CPUs that it would use"),
            ("one_more.fits", "whether nobody would suffer"),
            ("one_more.text", "one sentence"),
            ("advice", "sentences: what to move away or to change, and why"),
            ("vms", "list of VMs"),
            ("vms[].name", "the VM's name"),
            ("vms[].domid", "its domain id now"),
            ("vms[].uuid", "its UUID"),
            ("vms[].vcpus", "its vCPUs online"),
            ("vms[].memory_kb", "its memory"),
            ("vms[].cpus_used", "CPUs of the host that it uses now; null: not known yet"),
            ("vms[].mem_used_pct", "memory in use, by its own word; null: it does not say"),
            ("vms[].steal_pct", "CPU that it wanted and did not get, by its own word; null: it does not say"),
            ("vms[].steal_usual", "what is usual of that"),
            ("vms[].near_max", "observations in which it was close to its maximum"),
            ("vms[].near_max_of", "of so many"),
            ("vms[].is_near_max", "whether that is often"),
            ("vms[].gets_too_little", "whether it waits for CPU more than is usual"),
        ),
    ),
    Verb(
        "sprawl",
        "List VMs that have done nothing for long.",
        "Those that by dom0's own counters neither sent nor received nor used CPU to speak of, without a "
        "break for as long as the policy says (14 days). The longest first.",
        examples=(("xenwarden sprawl", "Which VMs has everybody forgotten?"),),
        json=(
            ("vms", "list of idle VMs"),
            ("vms[].name", "the VM's name"),
            ("vms[].domid", "its domain id now"),
            ("vms[].uuid", "its UUID"),
            ("vms[].vcpus", "its vCPUs online"),
            ("vms[].memory_kb", "its memory"),
            ("vms[].idle_s", "seconds since it was last busy"),
            ("vms[].why", "what it was found to do, in words"),
            ("memory_kb", "memory of all of them"),
            ("after_s", "seconds after which a VM is listed"),
        ),
    ),
    Verb(
        "events",
        "Show what happened; with -f, what happens.",
        "One sentence for each event, oldest first. With --json one object on each line.",
        arguments=(Argument(DOMAIN, required=False),),
        options=(
            Option(("-f", "--follow"), "Go on with events as they happen."),
            Option(("-n", "--lines"), "Begin with the last NUMBER events (20).", metavar="NUMBER"),
        ),
        examples=(
            ("xenwarden events -f", "Watch live."),
            ("xenwarden events -n 100 mallory", "The last hundred of one VM."),
        ),
        json=_EVENT,
    ),
    Verb(
        "history",
        "Show what is usual for a VM: what was learnt, and from how much.",
        "For each signal the 95th percentile of what was seen, and the upper limit of what is usual that "
        "follows from it and from the prior of the VM's profile. A VM that is gone is named by its UUID.",
        arguments=(Argument(DOMAIN),),
        examples=(("xenwarden history web", "What web usually does."),),
        json=(
            ("uuid", "the VM's UUID"),
            ("name", "its name; null: it does not run here now"),
            ("profile", "the profile of the policy that its priors come from"),
            ("known_s", "seconds that dom0 has seen it run"),
            ("near_max", "observations that found it close to its maximum"),
            ("near_max_of", "of how many"),
            ("signals", "by name, those that were seen"),
            ("signals.NAME.p95", "the 95th percentile of what was seen"),
            ("signals.NAME.usual", "the upper limit of what is usual"),
            ("signals.NAME.unit", "unit of both"),
            ("signals.NAME.observations", "how many there were"),
            ("signals.NAME.seen_s", "the seconds that they cover"),
            (
                "signals.NAME.hours",
                "the upper limit of each hour of the day, UTC; null where it was seen on too few days",
            ),
            ("signals.NAME.learnt", "whether these are enough that the prior has no part in it"),
        ),
    ),
    Verb(
        "forget",
        "Forget what was learnt of a VM, and what it did.",
        "Its history, its last verdict and what HSEM bears in mind of it go; the audit log stays. One "
        "that runs begins anew with the priors of its profile. A VM with limits has to be released first.",
        arguments=(Argument("UUID"),),
        examples=(
            ("xenwarden -N forget 5d9f2ad9-0c2e-4d0b-9a3c-7b1c5d1f0a11", "Say what would go."),
            ("xenwarden forget 5d9f2ad9-0c2e-4d0b-9a3c-7b1c5d1f0a11", "Forget it."),
        ),
        json=(
            ("uuid", "the VM's UUID"),
            ("name", "its name; null: it does not run here now"),
            ("forgotten", "what was known: history, verdict, state"),
        ),
        changes=True,
    ),
    Verb(
        "policy",
        "Show the policy in force, check a file, or print the default.",
        "show: the policy that xenwardend works with; with DOMAIN what holds for this VM, value by value, "
        "and where each came from: built-in, file:line or a node of XenStore. check: read FILE as "
        "xenwardend would and say what is wrong. default: print the file that is shipped. xenwardend reads "
        "its file again on SIGHUP (systemctl reload xenwardend), and nodes as soon as they change; see "
        "xenwarden.yaml(5).",
        arguments=(
            Argument("ACTION", choices=("show", "check", "default")),
            Argument(EITHER, required=False),
        ),
        examples=(
            ("xenwarden policy show web1", "What holds for web1, and who said so."),
            ("xenwarden policy check /etc/xen/xenwarden.yaml", "Before a reload."),
            ("xenwarden policy default > /etc/xen/xenwarden.yaml", "Begin with the default."),
        ),
        json=(
            ("file", "the policy's file; null: what is shipped"),
            ("policy", "from show: what xenwardend works with"),
            ("name", "from show DOMAIN: the VM's name"),
            ("uuid", "from show DOMAIN: its UUID"),
            ("values[].key", "from show DOMAIN: the key, as release.probation_s"),
            ("values[].value", "its value"),
            ("values[].source", "built-in, file:line or a node of XenStore"),
            ("refused[].node", "from show: a node of XenStore whose value does not count"),
            ("refused[].why", "and why"),
            ("ok", "from check: whether the file is good"),
            ("errors", "from check: what is wrong, `file:line: what was expected`"),
        ),
    ),
    Verb(
        "kill-switch",
        "Release every limit and set none, until switched off.",
        "on: within one tick all limits are lifted and originals put back; HSEM goes on deciding but nothing "
        "is set. off: what HSEM wants is set again. The switch is the file /run/xenwarden/kill-switch; "
        "an admin's own /etc/xen/xenwarden.kill does the same and outlives a reboot.",
        arguments=(Argument("ACTION", choices=("on", "off", "status")),),
        examples=(
            ("xenwarden kill-switch on", "Away with all limits."),
            ("xenwarden kill-switch status", "Is it on?"),
        ),
        json=(
            ("on", "whether it is on"),
            ("file", "the file that engages it, or null"),
        ),
        changes=True,
    ),
    Verb(
        "export",
        "Print policy, histories, limits and originals, for import.",
        "For another host to which the VMs migrate, or before dom0 is installed anew. Needs root and no "
        "daemon; of one that runs, histories are at most a minute old. The audit log stays where it is.",
        options=_PLACES,
        examples=(("xenwarden export > state.json", "Keep it."),),
        json=(
            ("format", "xenwarden-state"),
            ("version", "1"),
            ("xenwarden", "version that wrote it"),
            ("unix_s", "when"),
            ("sha256", "of state"),
            ("state", "what import reads; its form may change with version"),
        ),
    ),
    Verb(
        "import",
        "Take what was exported into an empty state directory.",
        "FILE is what export printed, - is standard input. Nothing is changed where the file is damaged, the "
        "state directory is not empty, or another policy is there. The next xenwardend knows each VM by its "
        "UUID, sets its limits again and puts back the originals that the other host had.",
        arguments=(Argument(FILE),),
        options=_PLACES,
        examples=(
            ("xenwarden -N import state.json", "Would it work?"),
            ("xenwarden import state.json", "Do it."),
        ),
        json=(
            ("vms", "number of VMs known"),
            ("limits", "number of limits wanted"),
            ("originals", "number of places whose original is known"),
            ("policy", "the file that the policy was written to; null: none, or it was there"),
        ),
        changes=True,
    ),
    Verb(
        "report",
        "Write a page on a VM: what happened, when, by what evidence.",
        "One HTML file that needs nothing else, to look at, to print or to send: states, levels, limits and "
        "verdicts over plots of the signals beside what is usual, the evidence in words, and who did what. "
        "Signals are kept in memory for two hours, ten minutes of them by 2 s, the rest by 30 s; events for "
        "as long as the audit log. TIME is 30m, 2h, 7d or 2026-01-31 14:00; without it the page begins "
        "shortly before the first change of state in the last two hours. A VM that is gone is named by its "
        "UUID.",
        arguments=(Argument(DOMAIN),),
        options=(
            Option(("-o", "--output"), "Write to FILE, for its owner alone.", metavar=FILE),
            Option(("--since",), "Begin at TIME.", metavar="TIME"),
        ),
        examples=(
            ("xenwarden report mallory -o mallory.html", "The last incident."),
            ("xenwarden report mallory --since 1d -o day.html", "A day."),
        ),
        json=(
            ("host", "dom0's host name"),
            ("version", "version of the daemon"),
            ("unix_s", "when it was made"),
            ("since_unix_s", "where it begins"),
            ("vm", "the VM, as in show; one that is gone as far as it is known, with domid null"),
            ("events", "of the VM and of the host since then, of each the last thousand"),
            *((f"events[].{name}", meaning) for name, meaning in _EVENT),
            ("samples", "list of signals over time, oldest first"),
            ("samples[].unix_s", "begin of the step, of 30 s or of 2 s"),
            ("samples[].signals", "by name the highest value in the step"),
            ("samples[].signals.NAME", "the value"),
        ),
    ),
    Verb(
        "doctor",
        "Check this host and the daemon, and say what to do.",
        "Xen, the binding to libxl, units, xenstored with its quotas, what limits need of the kernel, "
        "clock, policy, database, the daemon and all agents. Exit status 1 where something is bad. Some "
        "checks need root.",
        examples=(
            ("xenwarden doctor", "What is to be mended."),
            ("xenwarden -v doctor", "What is well too."),
        ),
        json=(
            ("ok", "whether nothing is bad"),
            ("checks", "list of what was found"),
            ("checks[].check", "what was looked at"),
            ("checks[].state", "ok, warn, bad or unknown"),
            ("checks[].text", "what was found, a sentence"),
            ("checks[].advice", "what to do; empty where it is ok"),
        ),
    ),
    Verb(
        "record",
        "Record what enters the decision core, for replay.",
        "Writes one JSON object on each line, from the next tick until interrupted (Ctrl-C or SIGTERM), "
        "until xenwardend ends, or until the file has recording.max_mb of the policy. FILE is made new and "
        "for root alone; where the disk is full it ends with the last whole tick. One recording at a time. "
        "It holds signals, states and limits, names and UUIDs of VMs; no addresses. The format is told in "
        "recording-format.md beside xenwarden's source.",
        options=(
            Option(("-o", "--output"), "Write to FILE.", metavar=FILE),
            Option(("--anonymise",), "Number the VMs, leave out names, UUIDs, users and the date."),
        ),
        examples=(
            ("xenwarden record -o monday.jsonl", "Until Ctrl-C."),
            ("xenwarden record --anonymise -o public.jsonl", "To give away."),
        ),
        json=(
            ("file", "the file"),
            ("bytes", "its size"),
            ("ticks", "ticks that it holds"),
            ("ended", "why it ended: interrupted, or full"),
        ),
    ),
    Verb(
        "replay",
        "Run the decision core on recordings and say what it decides.",
        "Each FILE is a host of its own. Prints each alarm, level, limit, change of state and verdict with "
        "its time in the recording. The same files and policy give the same output, byte for byte. Needs "
        "neither a daemon nor Xen. A line that is wrong ends it with file, line and reason. Anything that "
        "counts can be made a recording: recording-format.md beside xenwarden's source has converters.",
        arguments=(Argument(FILE, many=True),),
        options=(
            Option(("--policy",), "Decide by this policy, not by what is shipped.", metavar=FILE),
            Option(("--skip-bad",), "Pass over lines that are wrong, and count them."),
            Option(("--scores",), "Say of each line with signals how unusual it is: above 1 unusual."),
        ),
        examples=(
            ("xenwarden replay monday.jsonl", "What was decided, by the policy that is shipped."),
            ("xenwarden replay --policy strict.yaml *.jsonl", "By another policy."),
            ("xenwarden --json replay --scores /dev/stdin", "What a converter pipes in, with scores."),
        ),
        json=(
            ("file", "the recording, as it was named"),
            ("t", "when, in the recording's seconds"),
            ("vm", "the VM's UUID, or what the recording calls it"),
            ("name", "the VM's name"),
            (
                "event",
                "alarm, level, limit, lift, state or verdict; with --scores score; end: last of a file",
            ),
            ("text", "the reason, one sentence"),
            ("rules", "alarm: the rules that found it"),
            ("evidence", "alarm and verdict: as in show"),
            ("level", "level: the level ordered, 1 or 2"),
            ("kind", f"limit and lift: {_KINDS}"),
            ("value", f"limit: {_UNITS}"),
            ("provisional", "limit: whether it is only until the verdict"),
            ("old", "state: normal, watched, contained or protected"),
            ("new", "state: likewise"),
            ("verdict", "verdict: attacker, victim or neither"),
            ("also_victim", "verdict: whether this attacker is a victim too"),
            ("score", "score: in times what would be unusual; 0 where nothing is known to compare with"),
            ("signal", "score: the signal that is most unusual, empty where nothing is known"),
            ("records", "end: lines that held signals"),
            ("ticks", "end: decisions made"),
            ("bad", "end: lines passed over"),
        ),
    ),
    Verb(
        "version",
        "Print the versions of this command and of the daemon.",
        "The daemon's line is missing where none runs; that is no failure.",
        json=(
            ("command", "version of this command"),
            ("daemon", "version of the daemon, null where none runs"),
            ("xen", "version of Xen, null where no daemon runs"),
        ),
    ),
)

BY_NAME = {verb.name: verb for verb in VERBS}
