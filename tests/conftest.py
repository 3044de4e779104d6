# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures for all tests: the real XenStore daemons, run without Xen."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
import xenstored_offline
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xenstore_worlds import Wait


# A busy machine is no finding.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def xenstored_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile what stands in for Xen; skips where the daemons are missing, in CI fails."""
    missing = xenstored_offline.missing()
    if missing and not os.environ.get("CI"):
        pytest.skip(missing)
    assert not missing, missing
    return xenstored_offline.build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(params=["xenstored", "oxenstored"])
def xenstored(request: pytest.FixtureRequest, xenstored_shim: Path) -> Iterator[xenstored_offline.Xenstored]:
    """Run the real daemon, each of the two in turn, with no domain but dom0; mark tests `xenstored`."""
    with xenstored_offline.Xenstored(request.param, xenstored_shim) as daemon:
        yield daemon


@pytest.fixture
def eventually() -> Wait:
    """Return a call that waits until a condition holds: events and reconnects take their time."""

    def wait(condition: Callable[[], object]) -> None:
        until = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < until, "did not come true within 10 s"
            time.sleep(0.005)

    return wait
