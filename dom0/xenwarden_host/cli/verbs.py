# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one table of verbs. The parser, `--help`, the man page and the completion are made from it.

`json` of a verb are the members of what `--json` prints: stable, members are only added.
"""

from __future__ import annotations

DOMAIN = "DOMAIN"  # the metavar that completion fills with VM names
FILE = "FILE"  # the metavar that completion fills with files


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
        """Return the verb with its arguments, as `release [--all] [DOMAIN]`."""
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
    Option(("--socket",), "Use the control socket PATH.", metavar="PATH"),
)

_KINDS = "cap, weight, vif-rate, vif-in, vif-pps/CLASS, vbd-io, memory, vcpus or pause"
_UNITS = "cap: percent of one CPU; vif: bit/s or packets per second; vbd: byte/s; memory: kB"

_LIMIT_NOW = (
    ("kind", _KINDS),
    ("value", _UNITS),
    ("original", "what was there before, as it will be put back; null: nothing"),
    ("state", "pending, set, unsupported, failed, no-target or protected, after reading back"),
    ("owner", "hsem, or operator:NAME"),
    ("why", "the reason, one sentence"),
    ("since_unix_s", "when it was first wanted"),
    ("detail", "what is wrong where the state is not set"),
)

_EVENT = (
    ("id", "rises by one; null where the entry could not be stored"),
    ("unix_s", "when"),
    ("mono_s", "when, dom0's CLOCK_MONOTONIC"),
    (
        "event",
        "what kind: state, verdict, level, order, ask, alert, limit-set, limit-lifted, limit-failed, …",
    ),
    ("uuid", "the VM; empty where it is about the host"),
    ("name", "the VM's name"),
    ("who", "hsem, xenwardend or operator:USER"),
    ("text", "one sentence"),
    ("data", "the event's own figures"),
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
            ("daemon.errors", "failures survived, by where they happened"),
            ("daemon.store", "connected or lost"),
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
            ("also_victim", "whether this attacker is a victim too"),
            ("why", "the reason of the last change of state"),
            ("evidence", "list of what it rests on"),
            ("evidence[].signal", "name of the signal"),
            ("evidence[].value", "what it was"),
            ("evidence[].usual", "the upper limit of what is usual"),
            ("evidence[].unit", "unit of both"),
            ("evidence[].source", "vsem, vrem or hrem: who measured it"),
            ("evidence[].rule", "the detector"),
            ("evidence[].text", "one sentence"),
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
            ("limits_now", "limits wanted now"),
            *((f"limits_now[].{name}", meaning) for name, meaning in _LIMIT_NOW),
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
            ("evidence", "as in show"),
            ("limits_now", "as in show"),
            ("events", "the VM's last events, as in events"),
        ),
    ),
    Verb(
        "limits",
        "List the limits in force and what was there before.",
        "One line for each limit: what is wanted, whether it was read back as set, the original, "
        "who wants it and why.",
        arguments=(Argument(DOMAIN, required=False),),
        examples=(("xenwarden limits", "Of all VMs."), ("xenwarden limits mallory", "Of one VM.")),
        json=(
            ("name", "the VM's name"),
            ("uuid", "its UUID"),
            *_LIMIT_NOW,
        ),
    ),
    Verb(
        "release",
        "Lift the limits of a VM and put back what was there before.",
        "HSEM goes back to watching the VM from the beginning: it can limit it again on new evidence. "
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
        "policy",
        "Show the policy in force, check a file, or print the default.",
        "show: the policy that xenwardend works with. check: read FILE as xenwardend would and say "
        "what is wrong. default: print the file that is shipped. xenwardend reads its file again on SIGHUP "
        "(systemctl reload xenwardend).",
        arguments=(
            Argument("ACTION", choices=("show", "check", "default")),
            Argument(FILE, required=False),
        ),
        examples=(
            ("xenwarden policy check /etc/xen/xenwarden.yaml", "Before a reload."),
            ("xenwarden policy default > /etc/xen/xenwarden.yaml", "Begin with the default."),
        ),
        json=(
            ("file", "the policy's file; null: what is shipped"),
            ("policy", "from show: what xenwardend works with"),
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
        "neither a daemon nor Xen. A line that is wrong ends it with file, line and reason.",
        arguments=(Argument(FILE, many=True),),
        options=(
            Option(("--policy",), "Decide by this policy, not by what is shipped.", metavar=FILE),
            Option(("--skip-bad",), "Pass over lines that are wrong, and count them."),
        ),
        examples=(
            ("xenwarden replay monday.jsonl", "What was decided, by the policy that is shipped."),
            ("xenwarden replay --policy strict.yaml *.jsonl", "By another policy."),
        ),
        json=(
            ("file", "the recording, as it was named"),
            ("t", "when, in the recording's seconds"),
            ("vm", "the VM's UUID, or what the recording calls it"),
            ("name", "the VM's name"),
            ("event", "alarm, level, limit, lift, state or verdict; end: the last of a file"),
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
