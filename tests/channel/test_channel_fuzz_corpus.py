# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the fuzzer found worth keeping still holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fuzz.channel import CORPUS, TARGETS, check

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name[:8])
def test_the_corpus_breaks_no_promise(path: Path) -> None:
    check(path.read_bytes())


def test_the_corpus_has_inputs_for_every_target() -> None:
    assert {path.read_bytes()[0] % len(TARGETS) for path in INPUTS} == set(range(len(TARGETS)))
