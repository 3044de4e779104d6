# SPDX-License-Identifier: LGPL-2.1-or-later
"""xenwardend as a process of its own, with the shipped main, on a real XenStore and a Xen in memory.

    python3 daemon_process.py SOCKET DOMIDS [xenwardend's own arguments]

`DOMIDS` is a comma list; each of them is a running VM `vmN` with one vif.
"""

from __future__ import annotations

import os
import sys
from uuid import UUID

from xenwarden_channel.client import StoreClient
from xenwarden_host.daemon import main as daemon
from xenwarden_host.libxl.fake import FakeHypervisor
from xenwarden_host.limits.fake import FakeVifs


def run() -> int:
    """Serve until a signal."""
    socket_path, domids, *arguments = sys.argv[1:]
    options = daemon.arguments().parse_args(arguments)
    daemon.log_to_stderr(verbose=options.verbose, debug=options.debug)
    hypervisor, vifs = FakeHypervisor(), FakeVifs()
    for domid in map(int, domids.split(",")):
        while hypervisor.add(str(UUID(int=domid)), f"vm{domid}") != domid:
            hypervisor.destroy(max(info.domid for info in hypervisor.list_domains()))
        vifs.add(domid)
    lock = daemon.take_instance(options)
    store = StoreClient(socket_path, daemon.STORE_DEADLINE_S)
    daemon.serve(options, hypervisor=hypervisor, store=store, vifs=vifs, vbds=None)
    store.close()
    os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(run())
