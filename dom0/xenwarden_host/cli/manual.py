# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the man page, the bash completion and the JSON Schema from the table of verbs.

    python3 -m xenwarden_host.cli.manual man > dom0/man/xenwarden.8
    python3 -m xenwarden_host.cli.manual completion > dom0/completion/xenwarden
    python3 -m xenwarden_host.cli.manual schema > dom0/schema/xenwarden.json

The files are in the tree, so that installing runs nothing; a test compares them.
"""

from __future__ import annotations

import json
import sys

from xenwarden_host import __version__
from xenwarden_host.cli.schema import document
from xenwarden_host.cli.verbs import DOMAIN, EITHER, FILE, GLOBAL_OPTIONS, PATH, VERBS, Option, Verb


def man_page() -> str:
    """Return xenwarden(8) in man(7) macros."""
    lines = [
        '.\\" Made from the table of verbs by xenwarden_host.cli.manual.',
        f'.TH XENWARDEN 8 "" "xenwarden {_roff(__version__)}" "Xen"',
        ".SH NAME",
        "xenwarden \\- see and steer xenwardend, which watches the VMs of a Xen host",
        ".SH SYNOPSIS",
        ".B xenwarden",
        ".RI [ OPTION ...]",
        ".I VERB",
        ".RI [ ARGUMENT ...]",
        ".SH DESCRIPTION",
        "Asks",
        ".BR xenwardend (8)",
        "through its control socket and prints the answer.",
        ".I DOMAIN",
        "is a VM's name, domain id or UUID. Tables go to standard output, one header line first; what an",
        "admin should know besides goes to standard error. Colour is used on a terminal only, and not where",
        "NO_COLOR is set.",
        ".SH OPTIONS",
        "These stand before or after the verb.",
    ]
    for option in GLOBAL_OPTIONS:
        lines += _option(option)
    lines.append(".SH VERBS")
    for verb in VERBS:
        lines += _verb(verb)
    lines += [
        ".SH JSON",
        "With",
        ".B \\-\\-json",
        "each verb prints one JSON value (events, replay and top: one object on each line). Names below are",
        "stable; names are only added. [] stands for each element of a list. limits and release print a",
        "list of such objects, the others one object. The same as JSON Schema, each verb under $defs, is in",
        ".IR /usr/share/xenwarden/xenwarden.json .",
    ]
    for verb in VERBS:
        lines += [f".SS {_roff(verb.name)}", ".PD 0"]
        for name, meaning in verb.json:
            lines += [".TP", f".B {_roff(name)}", _roff(meaning)]
        lines.append(".PD")
    lines += [
        ".SH EXIT STATUS",
        ".TP",
        ".B 0",
        "Done.",
        ".TP",
        ".B 1",
        "Failed: a sentence on standard error says why.",
        ".TP",
        ".B 2",
        "Wrong usage.",
        ".SH ACCESS",
        "root may do everything. Others need a role, which the policy gives to Unix groups: a viewer may",
        "look, an operator may limit and release VMs and order their level, an admin may do everything.",
        "Refusals are logged. There is no network port; from another machine use",
        ".BR ssh (1).",
        ".SH FILES",
        ".TP",
        ".I /run/xenwarden/control.sock",
        "The control socket.",
        ".TP",
        ".I /run/xenwarden/kill\\-switch",
        "Made by",
        '.BR "xenwarden kill\\-switch on" .',
        ".TP",
        ".I /etc/xen/xenwarden.kill",
        "An admin's own kill switch, which outlives a reboot.",
        ".SH SEE ALSO",
        ".BR xenwardend (8),",
        ".BR xenwarden\\-exporter (8),",
        ".BR xenwarden.yaml (5),",
        ".BR xl (1)",
    ]
    return "\n".join(lines) + "\n"


def _verb(verb: Verb) -> list[str]:
    lines = [f".SS {_roff(verb.usage())}", _roff(verb.text)]
    for option in verb.options:
        lines += _option(option)
    for command, what in verb.examples:
        lines += [".TP", f".B {_roff(command)}", _roff(what)]
    return lines


def _option(option: Option) -> list[str]:
    flags = ", ".join(option.flags)
    label = f'.BI "{_roff(flags)} " {option.metavar}' if option.metavar else f'.B "{_roff(flags)}"'
    return [".TP", label, _roff(option.help)]


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "\\|.\\|.\\|.")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def completion() -> str:
    """Return the bash completion."""
    flags = " ".join(flag for option in GLOBAL_OPTIONS for flag in option.flags)
    valued = {
        flag: option.metavar
        for option in (*GLOBAL_OPTIONS, *(option for verb in VERBS for option in verb.options))
        for flag in option.flags
        if option.metavar
    }
    files = [flag for flag, metavar in valued.items() if metavar in (FILE, PATH)]
    others = [flag for flag in valued if flag not in files]
    lines = [
        "# bash completion of xenwarden, made from its table of verbs by xenwarden_host.cli.manual",
        "_xenwarden() {",
        "  local word=${COMP_WORDS[COMP_CWORD]} verb= count=0 index",
        "  for ((index = 1; index < COMP_CWORD; index++)); do",
        "    case ${COMP_WORDS[index]} in",
        f"      {' | '.join(valued)}) ((index++)) ;;",
        "      -*) ;;",
        "      *) if [[ -z $verb ]]; then verb=${COMP_WORDS[index]}; else ((count++)); fi ;;",
        "    esac",
        "  done",
        "  COMPREPLY=()",
        '  case "${COMP_WORDS[COMP_CWORD - 1]}" in',
        f'    {" | ".join(files)}) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;',
        f"    {' | '.join(others)}) return ;;",
        "  esac",
        '  case "$verb:$count" in',
        f"    :0) _xenwarden_words '{' '.join(verb.name for verb in VERBS)}' ;;",
    ]
    for verb in VERBS:
        for index, argument in enumerate(verb.arguments):
            if argument.choices:
                lines.append(f"    {verb.name}:{index}) _xenwarden_words '{' '.join(argument.choices)}' ;;")
            elif argument.metavar == DOMAIN:
                lines.append(f"    {verb.name}:{index}) _xenwarden_domains ;;")
            elif argument.metavar == EITHER:
                lines.append(
                    f"    {verb.name}:{index}) _xenwarden_domains; "
                    'mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$word") ;;'
                )
            elif argument.metavar == FILE:
                place = "*" if argument.many else index
                lines.append(f'    {verb.name}:{place}) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;')
    lines += [
        "  esac",
        "  [[ $word == -* ]] || return",
        "  case $verb in",
    ]
    for verb in VERBS:
        if verb.options:
            own = " ".join(flag for option in verb.options for flag in option.flags)
            lines.append(f"    {verb.name}) _xenwarden_words '{own} {flags}' ;;")
    lines += [
        f"    *) _xenwarden_words '{flags}' ;;",
        "  esac",
        "}",
        "",
        "_xenwarden_words() {",
        '  mapfile -t COMPREPLY < <(compgen -W "$1" -- "$word")',
        "}",
        "",
        "# Names of VMs, as the daemon lists them; none where it does not run.",
        "_xenwarden_domains() {",
        "  local name",
        "  while read -r name _; do",
        '    [[ $name == "$word"* ]] && COMPREPLY+=("$name")',
        "  done < <(xenwarden list 2>/dev/null | tail -n +2)",
        "}",
        "",
        "complete -F _xenwarden xenwarden",
    ]
    return "\n".join(lines) + "\n"


def schema() -> str:
    """Return the JSON Schema of what `--json` prints."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Print what the argument names."""
    made = {"man": man_page, "completion": completion, "schema": schema}
    if len(sys.argv) != 2 or sys.argv[1] not in made:
        print(f"usage: python3 -m xenwarden_host.cli.manual {'|'.join(made)}", file=sys.stderr)
        return 2
    print(made[sys.argv[1]](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
