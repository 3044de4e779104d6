# SPDX-License-Identifier: LGPL-2.1-or-later
"""One XenStore with dom0 and guests, in three forms: in memory, C xenstored, oxenstored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from xenstore_worlds import FakeWorld, RealWorld, World
from xenstored_offline import Xenstored

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(
    params=[
        "fake",
        pytest.param("xenstored", marks=pytest.mark.xenstored),
        pytest.param("oxenstored", marks=pytest.mark.xenstored),
    ]
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        fake = FakeWorld()
        yield fake
        fake.store.close()
        return
    with Xenstored(request.param, request.getfixturevalue("xenstored_shim")) as daemon:
        real = RealWorld(daemon)
        yield real
        real.store.close()
