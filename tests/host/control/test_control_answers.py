# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a user with a role sends over the control socket is answered or refused, never a bug."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from daemon_world import ROOT, World
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xenwarden_host.control.answers import Answers
from xenwarden_host.control.peers import Role
from xenwarden_host.errors import XenwardenError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERBS = (
    *("list", "top", "show", "why", "limits", "capacity", "sprawl", "events", "policy", "version", "report"),
    *("doctor", "history", "forget", "record", "release", "limit", "level", "kill-switch", "nosuch"),
)
KINDS = (
    "cap",
    "weight",
    "vif-rate",
    "vif-in",
    "vif-pps",
    "vif-pps/syn",
    "cap/syn",
    "memory",
    "vcpus",
    "vbd-io",
)
NUMBERS = st.integers() | st.sampled_from([0, 1, 2, 65535, 2**53, 2**63, 10**400]) | st.floats()
WORDS = st.text() | st.sampled_from(["mallory", "web", "1", "99", "\u0663", "\ud800", "on", "off", "status"])
ANYTHING = st.none() | st.booleans() | NUMBERS | WORDS | st.lists(NUMBERS)
ORDERS = st.dictionaries(st.sampled_from(KINDS) | st.text(), ANYTHING) | ANYTHING
NAMES = st.sampled_from(["mallory", "web", "00000000-0000-0000-0000-000000000001"])
MEMBERS = {
    "vm": NAMES | ANYTHING,
    "orders": ORDERS,
    **dict.fromkeys(("for_s", "dry_run", "lines", "follow", "since_unix_s", "action", "level"), ANYTHING),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world")) as world:
        for name in ("mallory", "web"):
            world.start(name)
        world.run(seconds=10)
        yield world


@pytest.fixture(scope="module")
def answers(world: World) -> Answers:
    return Answers(world.service.warden, lambda: None, None)


@given(do=st.sampled_from(VERBS), members=st.fixed_dictionaries({}, optional=MEMBERS))
@example(do="report", members={"vm": "mallory", "since_unix_s": 10**400})
@settings(max_examples=300)
def test_any_request_is_answered_or_refused(
    world: World, answers: Answers, do: str, members: dict[str, Any]
) -> None:
    with contextlib.suppress(XenwardenError):
        json.dumps(answers.answer({"do": do, **members}, ROOT, Role.ADMIN)[0])
    world.run(seconds=0.5)
    assert not world.service.warden.errors
