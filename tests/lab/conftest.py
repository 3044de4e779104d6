# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make importable what the lab copies into its machines."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ci/xenlab/inside"))
