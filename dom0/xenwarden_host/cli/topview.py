# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `xenwarden top` shows and what its keys do. Pure: answers and keys in, lines and requests out.

A line is a list of spans, each a text and a style: "", "bold", "reverse" or a colour's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.cli import amounts
from xenwarden_host.cli.output import clock_time, columns, cut, figure, printable
from xenwarden_host.cli.parser import UsageError, parse
from xenwarden_host.cli.topcolumns import GAP, NAMES, arrange, cells, event_of, fit
from xenwarden_host.cli.topdetail import SPAN_S, STATE_STYLES, detail_lines

if TYPE_CHECKING:
    from xenwarden_host.cli.topdetail import Line

    Request = tuple[str, dict[str, Any]]

_KEYS = "enter one VM  l limit  r release  s sort  / filter  ? keys  q quit"
_KEYS_OF_ONE = "up down scroll  l limit  r release  q back"
_HELP = (
    ("up down pgup pgdn home end", "choose a VM; while one is shown, scroll"),
    ("enter", "show the VM, its signals and events"),
    ("l", "limit it, as `xenwarden limit` does: --cap 50 --for 10m"),
    ("r", "release it: put back what was there"),
    ("s S", "sort by the next or the previous column"),
    ("R", "reverse the order"),
    ("/", "only VMs with this in name, state, verdict or limit"),
    ("q esc", "back; in the list q ends"),
)


class View:
    """What is shown: a list of VMs, one VM or the keys; and what is being typed or asked."""

    def __init__(self, *, sort: str = "state", text: str = "", blocks: bool = True) -> None:
        self.sort = sort
        self.reverse = False
        self.text = text
        self.mode = "list"
        self.message = ""
        self._blocks = blocks  # whether the terminal has block elements for sparklines
        self._answer: dict[str, Any] | None = None
        self._detail: dict[str, Any] | None = None
        self._failure = ""
        self._selected: str | None = None  # by UUID: a VM keeps being selected wherever it is sorted to
        self._scroll = 0
        self._page = 10
        self._typing: str | None = None  # the text so far
        self._limited: dict[str, Any] | None = None  # the VM that it shall limit; None: it is a filter
        self._pending: tuple[str, Request] | None = None  # a question, and what is asked for with y

    # --- to and from the daemon ---------------------------------------------------------------------

    def request(self) -> Request:
        """Return what the daemon is to be asked for now."""
        if self.mode == "detail" and self._selected is not None and self._answer is not None:
            return "report", {"vm": self._selected, "since_unix_s": int(self._answer["unix_s"] - SPAN_S)}
        return "top", {}

    def take(self, answer: dict[str, Any]) -> None:
        """Take the answer to `request`."""
        self._failure = ""
        if "samples" in answer:
            self._detail = answer
            if self._answer is not None:
                self._answer["unix_s"] = answer["unix_s"]
            return
        self._answer = answer
        if self._vm() is None:
            rows = self._rows()
            self._selected = rows[0]["uuid"] if rows else None

    def done(self, answer: Any) -> None:
        """Take the answer to a request that a key made."""
        if isinstance(answer, list):
            lifted = ", ".join(kind for vm in answer for kind in vm["lifted"]) or "no limit"
            self.message = f"released: {lifted} lifted"
            return
        ordered = {order["kind"] for order in answer["ordered"]}
        wrong = [
            f"{row['kind']} is {row['state']}: {row['detail']}"
            for row in answer["limits_now"]
            if row["kind"] in ordered and row["state"] not in ("set", "pending")
        ]
        self.message = "; ".join(wrong) or f"limited: {', '.join(sorted(ordered))}"

    def fail(self, sentence: str, *, refused: bool = False) -> None:
        """Say that the daemon could not be asked, or with `refused` that it did not do what a key asked."""
        if refused:
            self.message = sentence
        else:
            self._failure = sentence

    # --- keys ---------------------------------------------------------------------------------------

    def key(self, key: str) -> Request | None:
        """Take a key, by its letter or name; return what the daemon is asked to do for it.

        Raises:
            EOFError: the user is done.
        """
        if self._pending is not None:
            _question, request = self._pending
            self._pending = None
            if key in ("y", "Y"):
                return request
            self.message = "nothing was done"
        elif self._typing is not None:
            self._type(key)
        elif self.mode == "list":
            self.message = ""
            self._key_in_list(key)
        elif key in ("q", "esc", "enter"):
            self.mode, self._scroll, self._detail = "list", 0, None
        else:
            self.message = ""
            self._scroll = max(0, self._scroll + self._step(key))
            self._act(key)
        return None

    def _step(self, key: str) -> int:
        far = 1 << 30
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -self._page, "pgdn": self._page}
        return {**steps, "home": -far, "end": far}.get(key, 0)

    def _key_in_list(self, key: str) -> None:
        if key == "q":
            raise EOFError
        if key == "enter" and self._selected is not None:
            self.mode, self._scroll, self._detail = "detail", 0, None
        elif key == "?":
            self.mode, self._scroll = "help", 0
        elif key in ("s", "S"):
            self.sort = NAMES[(NAMES.index(self.sort) + (1 if key == "s" else -1)) % len(NAMES)]
        elif key == "R":
            self.reverse = not self.reverse
        elif key == "/":
            self._typing, self._limited = self.text, None
        elif self._step(key):
            rows = self._rows()
            place = next((n for n, vm in enumerate(rows) if vm["uuid"] == self._selected), 0)
            if rows:
                self._selected = rows[min(max(place + self._step(key), 0), len(rows) - 1)]["uuid"]
        else:
            self._act(key)

    def _act(self, key: str) -> None:
        """Begin what changes a VM; it is asked for before it is done."""
        vm = self._vm()
        if vm is None or self.mode == "help":
            return
        if key == "l":
            self._typing, self._limited = "", vm
        elif key == "r":
            limits = ", ".join(vm["limits"]) or "no limit"
            question = f"Release {printable(vm['name'])} ({limits} now)?"
            self._pending = question, ("release", {"vm": vm["uuid"]})

    def _type(self, key: str) -> None:
        text = self._typing or ""
        if key == "esc":
            self._typing = None
        elif key == "backspace":
            self._typing = text[:-1]
        elif key == "enter":
            self._typing = None
            if self._limited is None:
                self.text = text.strip()
                rows = self._rows()
                if rows and self._selected not in [vm["uuid"] for vm in rows]:
                    self._selected = rows[0]["uuid"]
            elif text.strip():
                self._ask_to_limit(self._limited, text.strip())
        elif len(key) == 1 and key.isprintable():
            self._typing = text + key

    def _ask_to_limit(self, vm: dict[str, Any], text: str) -> None:
        try:
            parsed = parse(["limit", *text.split(), "--", vm["uuid"]])
            orders = amounts.orders(parsed.options)
            for_s = amounts.span_s(parsed.options["for"]) if "for" in parsed.options else None
        except (UsageError, ValueError) as error:
            self.message = str(error)
            return
        if not orders:
            self.message = "limit needs a limit to set, such as --cap 50"
            return
        self._pending = (
            f"Limit {printable(vm['name'])} by {text}?",
            ("limit", {"vm": vm["uuid"], "orders": orders, "for_s": for_s}),
        )

    # --- lines --------------------------------------------------------------------------------------

    def lines(self, width: int, height: int) -> list[Line]:
        """Return what a terminal of this size shows, at most `height` lines of at most `width` columns."""
        room = max(1, height - 5)
        self._page = room
        if self.mode == "list":
            body = self._list(width, room)
        else:
            made = self._help() if self.mode == "help" else self._one(width)
            self._scroll = min(self._scroll, max(0, len(made) - room - 1))
            body = made[self._scroll : self._scroll + room + 1]
        lines = [self._title(), *self._notice(), *body]
        del lines[max(height - 2, 0) :]
        lines += [[]] * (height - 2 - len(lines))
        lines += [self._foot(), [(_KEYS if self.mode == "list" else _KEYS_OF_ONE, "bold")]]
        return [_clipped(line, width) for line in lines[:height]]

    def _title(self) -> Line:
        if self._failure:
            return [("xenwarden top  ", "bold"), (printable(self._failure), "red")]
        if self._answer is None:
            return [("xenwarden top", "bold")]
        vms, unix_s = self._answer["vms"], self._answer["unix_s"]
        head = f"  {printable(self._answer['host'])}  {clock_time(unix_s)}"
        if self.mode != "list":
            return [("xenwarden top", "bold"), (head, "")]
        some = f"{len(self._rows())} of " if self.text else ""
        counts = [(state, sum(vm["state"] == state for vm in vms)) for state in STATE_STYLES]
        line: Line = [("xenwarden top", "bold"), (f"{head}  {some}{len(vms)} VMs", "")]
        for state, count in counts:
            if count:
                line += [("  ", ""), (f"{count} {state}", STATE_STYLES[state])]
        used = sum(vm["cpu_pct"] or 0 for vm in vms) / 100
        line.append((f"  CPUs {figure(round(used, 1))} of {self._answer['cpus'] or '?'}", ""))
        return line

    def _notice(self) -> list[Line]:
        notices = self._answer["notices"] if self._answer else []
        return [[(printable("; ".join(notices)), "yellow")]]

    def _foot(self) -> Line:
        vm = self._vm()
        if self._pending is not None:
            return [(self._pending[0], "bold"), (" y/n ", "reverse")]
        if self._typing is not None:
            limited = self._limited
            what = "filter: " if limited is None else f"limit {printable(limited['name'])}: "
            example = "" if limited is None or self._typing else " (such as --cap 50 --for 10m)"
            return [(what, "bold"), (self._typing, ""), (" ", "reverse"), (example, "")]
        if self.message:
            return [(printable(self.message), "bold")]
        return [(event_of(vm), "")] if self.mode == "list" and vm is not None and vm["event"] else []

    def _list(self, width: int, room: int) -> list[Line]:
        rows = self._rows()
        shown, widths = fit(rows, width)
        place = next((n for n, vm in enumerate(rows) if vm["uuid"] == self._selected), 0)
        self._scroll = min(max(self._scroll, place - room + 1), place, max(0, len(rows) - room))
        header: Line = []
        for column, title in zip(shown, cells(None, shown, widths), strict=True):
            header += [(title, "reverse" if column.name == self.sort else "bold"), (GAP, "")]
        body = [header[:-1]]
        for vm in rows[self._scroll : self._scroll + room]:
            texts = cells(vm, shown, widths)
            if vm["uuid"] == self._selected:
                text = GAP.join(texts)
                body.append([(text + " " * (width - columns(text)), "reverse")])
                continue
            line: Line = []
            for column, text in zip(shown, texts, strict=True):
                style = STATE_STYLES.get(vm["state"], "") if column.name == "state" else ""
                line += [(text, style), (GAP, "")]
            body.append(line[:-1])
        if not rows and self._answer is not None:
            body.append([(f"no VM has {printable(self.text)!r} in it: / and enter shows all", "")])
        return body

    def _one(self, width: int) -> list[Line]:
        return (
            [[("…", "")]] if self._detail is None else detail_lines(self._detail, width, blocks=self._blocks)
        )

    def _help(self) -> list[Line]:
        wide = max(len(keys) for keys, _what in _HELP)
        return [[(keys.ljust(wide + 2), "bold"), (what, "")] for keys, what in _HELP]

    # --- helpers ------------------------------------------------------------------------------------

    def _rows(self) -> list[dict[str, Any]]:
        vms = self._answer["vms"] if self._answer else []
        return arrange(vms, self.sort, self.text, reverse=self.reverse)

    def _vm(self) -> dict[str, Any] | None:
        """Return the VM that is selected; None where it is gone."""
        vms = self._answer["vms"] if self._answer else []
        return next((vm for vm in vms if vm["uuid"] == self._selected), None)


def _clipped(line: Line, width: int) -> Line:
    """Return the line without what does not fit."""
    out: Line = []
    for text, style in line:
        if width <= 0:
            break
        if columns(text) > width:
            out.append((cut(text, width), style))
            break
        out.append((text, style))
        width -= columns(text)
    return out
