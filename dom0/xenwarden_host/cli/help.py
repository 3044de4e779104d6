# SPDX-License-Identifier: LGPL-2.1-or-later
"""`--help`, made from the table of verbs."""

from __future__ import annotations

import textwrap

from xenwarden_host.cli.verbs import GLOBAL_OPTIONS, VERBS, Option, Verb

_WIDTH = 80


def overview() -> str:
    """Return what `xenwarden --help` prints."""
    width = max(len(verb.name) for verb in VERBS)
    verbs = [f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS]
    return "\n".join(
        [
            "usage: xenwarden [OPTION...] VERB [ARGUMENT...]",
            "",
            "See and steer xenwardend, which watches the VMs of this host.",
            "",
            "Verbs",
            *verbs,
            "",
            "Options",
            *_options(GLOBAL_OPTIONS),
            "",
            "DOMAIN is a VM's name, domain id or UUID.",
            "Exit status: 0 done, 1 failed, 2 wrong usage.",
            "Of one verb: xenwarden VERB --help. All of it: man xenwarden.",
        ]
    )


def of_verb(verb: Verb) -> str:
    """Return what `xenwarden VERB --help` prints."""
    lines = [f"usage: xenwarden [OPTION...] {verb.usage()}", "", *textwrap.wrap(verb.text, _WIDTH)]
    if verb.options:
        lines += ["", "Options", *_options(verb.options)]
    if verb.examples:
        width = max(len(command) for command, _what in verb.examples)
        lines += ["", "Examples", *(f"  {command:<{width}}  {what}" for command, what in verb.examples)]
    return "\n".join(lines)


def _options(options: tuple[Option, ...]) -> list[str]:
    labels = [
        ", ".join(option.flags) + (f" {option.metavar}" if option.metavar else "") for option in options
    ]
    width = max(map(len, labels))
    return [f"  {label:<{width}}  {option.help}" for label, option in zip(labels, options, strict=True)]
