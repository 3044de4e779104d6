# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent's end of XenStore while that is in trouble."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from xenwarden_channel import paths
from xenwarden_channel.errors import DeadlineError, DisconnectedError
from xenwarden_guest import channel

if TYPE_CHECKING:
    import pytest


class Stalled:
    """A store that fired a watch and answers nothing any more."""

    pending = True

    def __init__(self, _path: str) -> None:
        """Connect."""

    def watch(self, _path: str, _token: str) -> None:
        """Watch; the event comes along with the answer."""

    def read(self, _path: str) -> NoReturn:
        """Wait in vain."""
        raise DeadlineError("no answer")

    def reconnect(self) -> NoReturn:
        """Fail."""
        raise DisconnectedError("nobody there")


def test_events_of_a_store_that_stalls_do_not_keep_the_agent_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "GuestStore", Stalled)
    stalled = channel.Channel("/nowhere")
    assert stalled.ready(0.0)
    assert stalled.pending
    assert stalled.read(paths.DOWN_ORDER, "order", 1.0) is None
    assert not stalled.ready(1.5)  # it backs off
    assert not stalled.pending
    assert not stalled.ready(2.5)  # and tries again
    assert not stalled.pending
