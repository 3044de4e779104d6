# SPDX-License-Identifier: LGPL-2.1-or-later
"""The channel on real Xen: what stands in XenStore is what the page of paths says."""

from __future__ import annotations

import re
import time

import pytest
from xenstore_contract import violations

from xenlab import accel, cli, layers, load, watch
from xenlab.machine import Lab
from xenwarden_channel import paths

pytestmark = pytest.mark.lab

# `request` stands for as long as the guest waits only.
NODES = {path.rpartition("/")[2] for path in (*paths.UP, *paths.DOWN)} - {"request"}


def test_all_that_agents_and_daemon_write_is_on_the_page() -> None:
    machine = load.load(cli.SCENARIOS / "demo.yaml").machine  # whose snapshot it shares
    images = layers.get()
    lab = Lab(machine, images, accel.choose("auto", images, machine))
    try:
        lab.start()
        env = watch.environment(machine.guests, watch.domids(lab.link))
        lab.link.check("nginx", guest="victim")
        # An attacker is asked how it runs, and goes into detail; a bystander asks for more.
        flood = "hping3 -S -p 80 -i u500 victim"
        lab.link.ask("spawn", 60, name="flood", command=flood, env=env, guest="mallory")
        lab.link.run("xenwarden-agent request --weight +10", guest="bystander")
        seen: set[str] = set()
        until = time.monotonic() + 300
        while not seen >= NODES and time.monotonic() < until:
            listing = lab.link.check("xenstore-ls -fp")
            assert violations(listing) == []
            seen.update(re.findall(r"/xenwarden/(\w+) = ", listing))
            time.sleep(1)
        assert seen >= NODES
    finally:
        lab.close()
