# SPDX-License-Identifier: LGPL-2.1-or-later
"""xenwardend is killed at some of its fault points; `ci/faults` does it at all of them, before and after."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_machine import STORIES, Machine, enumerate_points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SAMPLE = 23  # a prime: repeating patterns are not met at the same place each time


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with (
        tempfile.TemporaryDirectory(prefix="xenwarden-faults-", dir="/dev/shm") as folder,
        Machine(Path(folder)) as made,
    ):
        yield made


@pytest.mark.parametrize("name", STORIES)
def test_killed_daemon_leaves_what_is_decided_or_what_was_there(
    machine: Machine, name: str, record_property: Callable[[str, object], None]
) -> None:
    points, deaths = enumerate_points(machine, name, every=SAMPLE)
    assert deaths > 0
    record_property("fault_points", 2 * points)
    record_property("deaths", deaths)
