# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent asks for more by itself, where dom0's order lets it: one request at a time, and its answer."""

from __future__ import annotations

from xenwarden_channel import paths
from xenwarden_channel.messages import encode
from xenwarden_guest.request import WAIT_S, Answer, sentence
from xenwarden_guest.vrem.pressure import Pressure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_guest.channel import Channel
    from xenwarden_guest.vrem.pressure import Rules


class Asker:
    """One VM's own requests."""

    __slots__ = ("_asked", "_channel", "_pressure", "_until_s", "rules")

    def __init__(self, channel: Channel, rules: Rules) -> None:
        self._channel = channel
        self.rules = rules
        self._pressure = Pressure()
        self._asked: tuple[int, str, int] | None = None  # id, resource and amount of the request that stands
        self._until_s = 0.0  # it is withdrawn

    def look(self, signals: Mapping[str, float], now_s: float) -> None:
        """Ask for what the VM is short of by this report, where that is due."""
        what = self._pressure.due(signals, self.rules, now_s)
        if self._asked is not None:
            if now_s >= self._until_s:
                self._give_up(now_s)
            return
        if not what:
            return
        requested, answered = self._id(paths.UP_REQUEST, now_s), self._id(paths.DOWN_GRANT, now_s)
        if requested > answered:
            return  # somebody in the VM waits for an answer
        request_id, more = answered + 1, self.rules.more[what]
        fields: dict[str, str | float] = {"id": str(request_id), "what": what, "more": str(more)}
        if self._channel.write(paths.UP_REQUEST, encode("request", request_id, fields), now_s):
            self._asked, self._until_s = (request_id, what, more), now_s + WAIT_S

    def take_answer(self, now_s: float) -> None:
        """Read what dom0 wrote."""
        if self._asked is None:
            return
        request_id, what, more = self._asked
        grant = self._channel.read(paths.DOWN_GRANT, "grant", now_s)
        if grant is not None and grant.number("id") == request_id:
            granted = int(grant.number("more") or 0)
            answer = Answer(request_id, grant.fields.get("outcome", ""), granted, grant.fields.get("why", ""))
            self._end(what, more, answer, now_s)

    def _give_up(self, now_s: float) -> None:
        if self._asked is not None:
            request_id, what, more = self._asked
            if self._id(paths.UP_REQUEST, now_s) == request_id:
                self._channel.remove(paths.UP_REQUEST, now_s)
            self._end(what, more, Answer(request_id, "expired", 0, ""), now_s)

    def _end(self, what: str, more: int, answer: Answer, now_s: float) -> None:
        self._asked = None
        self._pressure.answered(what, self.rules, now_s, granted=answer.outcome == "granted")
        print(f"under pressure, asked for more {what}: {sentence(what, more, answer)}", flush=True)

    def _id(self, path: str, now_s: float) -> int:
        message = self._channel.read(path, path.rpartition("/")[2], now_s)
        return 0 if message is None else int(message.number("id") or 0)
