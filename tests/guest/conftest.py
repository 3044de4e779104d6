# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hypothesis without its deadline: a busy machine is no finding."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
