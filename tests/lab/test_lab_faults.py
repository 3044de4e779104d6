# SPDX-License-Identifier: LGPL-2.1-or-later
"""The shipped daemon dies at named points on real Xen: every VM has what is decided or what was there.

`ci/faults` kills it at every point, on a Xen in memory.
"""

from __future__ import annotations

import json
from pathlib import Path

import fault_xen
import pytest

from xenlab import accel, layers
from xenlab.machine import Lab
from xenlab.scenario import Guest, Host, Machine, Vif

pytestmark = [pytest.mark.lab, pytest.mark.long]


def test_a_death_on_real_xen_leaves_what_is_decided_or_what_was_there() -> None:
    guest = Guest("held", 0, cap=80, vifs=(Vif("50Mb/s"),), agent=False)
    machine = Machine(Host(xenwarden=False), (guest,))
    images = layers.get()
    with Lab(machine, images, accel.choose("auto", images, machine)) as dom0:
        dom0.start()
        dom0.link.put("/root/fault_xen.py", Path(fault_xen.__file__).read_bytes())
        ran = dom0.link.run("python3 fault_xen.py held", 500)
    print(ran["output"])
    assert ran["status"] == 0, ran["output"]
    ended = {(row := json.loads(line))["point"]: row["ended"] for line in ran["output"].splitlines()}
    assert len(ended) == len(fault_xen.POINTS)
    # What was not journalled was not promised; what was is kept, until its release is journalled.
    for point in fault_xen.POINTS:
        journalled = point.after or point.call != "save" or point.nth > 1
        name = f"{'release' if point.release else 'limit'}: {point.what}"
        assert ended[name] == ("limited" if journalled is not point.release else "as it was"), name
