# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vif-rate`: bits per second from guest to network, by the `rate` node that netback watches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import VifControl
    from xenwarden_host.records import DomainInfo

# How often netback gives new credit. It counts in ticks of dom0's kernel and rounds up: libxl's 50 ms
# are 52 at 250 ticks per second, these are whole at 100, 250, 300 and 1000.
_SHORT_USECS, _LONG_USECS, _STEP_USECS = 40_000, 200_000, 20_000
# What is left of a credit because the next packet, of up to 64 KiB, is larger adds to the next one, but
# both together are cut at 128 KiB or one credit. So with credits of at most 64 KiB nothing is lost; with
# larger ones some 30 kB of each are, and they have to be large. Measured with one TCP connection and 50 ms:
# 10 Mbit/s asked 9.1 sent, 50 asked 35 sent; with these intervals 9.9 and 48, on a loaded machine 34.
_LOSSLESS_BYTES = 64 << 10
_LARGE_BYTES = 1 << 20


class VifRate:
    """netback's rate. A place is a vif's device id; its text is the node as it stands, `bytes,usecs`.

    netback grants the rate to each queue of each vif. The value is the whole VM's and is divided evenly
    over all of them, so that the VM never gets more, and gets less where it uses only some. Whatever
    the rate, netback lets a queue that was quiet send up to 128 KiB, or one credit, at once
    (`xen-netback/netback.c`, `tx_add_credit`): a short download may seem unlimited.

    Covers PV network devices. An emulated one (HVM, `vifX.Y-emu`) has no such node.
    """

    ours_alone = False
    outlives_domain = False
    takes_time = False
    counted = False
    recheck_s = 0.0

    def __init__(self, vifs: VifControl) -> None:
        self._vifs = vifs

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return each vif's `rate` node."""
        devids = self._vifs.devids(domain.domid)
        if not devids:
            raise LimitError("no vif whose backend is in dom0", LimitState.NO_TARGET)
        return {str(devid): self._vifs.rate(domain.domid, devid) for devid in devids}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:
        """Return each vif's share, or what stands there where that is the stricter."""
        planned: dict[str, Text] = {}
        for place, original in originals.items():
            queues = self._vifs.queues(domain.domid, int(place))
            share = value / len(originals) / queues
            own = queue_bps(original)
            stricter = own is not None and own <= share
            planned[place] = original if stricter else _node(share)
        return planned

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Write or remove the nodes."""
        for place, text in texts.items():
            self._vifs.set_rate(domain.domid, int(place), text)


def _node(bps: float) -> str:
    """Return the `rate` node that grants a queue `bps`."""
    per_s = bps / 8
    usecs = _SHORT_USECS
    if per_s * usecs / 1_000_000 > _LOSSLESS_BYTES:
        steps = math.ceil(_LARGE_BYTES / per_s * 1_000_000 / _STEP_USECS)
        usecs = min(_LONG_USECS, max(_SHORT_USECS, steps * _STEP_USECS))
    return f"{max(1, int(per_s * usecs / 1_000_000))},{usecs}"


def queue_bps(text: Text) -> float | None:
    """Return the bits per second that a `rate` node grants a queue; None where netback sees no limit in it.

    A node that netback cannot read means no limit, with a warning in the kernel's log only.
    """
    if text is None:
        return None
    count, _comma, usecs = text.partition(",")
    if not all(word.isascii() and word.isdigit() for word in (count, usecs)) or int(usecs) == 0:
        return None
    return int(count) * 8 * 1_000_000 / int(usecs)
