# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the fuzzer of the collectors found worth keeping still holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fuzz.collectors import CORPUS, PARSERS, TARGETS, check

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name[:8])
def test_the_corpus_breaks_no_promise(path: Path) -> None:
    check(path.read_bytes())


def test_the_corpus_has_inputs_for_every_target_and_parser() -> None:
    chosen = [path.read_bytes() for path in INPUTS]
    assert {data[0] % len(TARGETS) for data in chosen} == set(range(len(TARGETS)))
    parsers = {data[1] % len(PARSERS) for data in chosen if data[0] % len(TARGETS) == 0 and len(data) > 1}
    assert parsers == set(range(len(PARSERS)))
