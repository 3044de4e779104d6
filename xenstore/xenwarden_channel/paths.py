# SPDX-License-Identifier: LGPL-2.1-or-later
"""XenStore paths of the channel. `xenstore/xenstore-paths.md` is the contract; a test compares both.

Up: owned by the guest, below `data/xenwarden` of its home. Down: owned by dom0, readable by the
guest (`n0,rN`), below `xenwarden` of its home. Names are fixed: dom0 never lists a directory that a
guest can write.
"""

from __future__ import annotations

# Up, relative to the guest's home (a guest uses relative paths: it need not know its domid).
UP_DIR = "data/xenwarden"
UP_REPORT = "data/xenwarden/report"  # VSEM and VREM together, both levels
UP_DETAIL = "data/xenwarden/detail"  # level 2 only: who is talked to
UP_ANSWER = "data/xenwarden/answer"  # VREM's answer to dom0's question
UP_REQUEST = "data/xenwarden/request"  # VREM asks for more
UP = (UP_REPORT, UP_DETAIL, UP_ANSWER, UP_REQUEST)
# Of dom0's own agent only: a node for each domain that it looks at, by domid.
UP_HEADERS_DIR = "data/xenwarden/headers"
UP_ARP = "data/xenwarden/arp"  # of dom0's own agent only: what ARP shows of other domains

# Down, relative likewise.
DOWN_DIR = "xenwarden"
DOWN_ORDER = "xenwarden/order"  # level ordered, intervals, provider's networks
DOWN_HISTORY = "xenwarden/history"  # brief history: the usual upper limit of each signal
DOWN_ASK = "xenwarden/ask"  # HSEM's question to VREM, sent by HREM
DOWN_STATUS = "xenwarden/status"  # the VM's state as the VM may know it
DOWN_GRANT = "xenwarden/grant"  # the answer to VREM's request
DOWN = (DOWN_ORDER, DOWN_HISTORY, DOWN_ASK, DOWN_STATUS, DOWN_GRANT)
DOWN_LOOK = "xenwarden/look"  # to dom0's own agent: at whose vifs to look

# Control, dom0 only.
TOOL_DIR = "/tool/xenwarden"
POLICY_DIR = "/tool/xenwarden/policy"  # in place of the same keys of the policy's file
VM_DIR = "/tool/xenwarden/vm"  # by UUID: in place of the keys of the VM's entry in `vms`

# C xenstored lets a guest write nodes of 2048 bytes in all, which leaves 2015 for a value.
MAX_MESSAGE_BYTES = 2000
MAX_LOOKS = 8  # domains whose vifs dom0's agent looks at, at a time
MAX_ARP = 16  # domains of which it tells what ARP shows, at a time


def headers(domid: int) -> str:
    """Return the path, in dom0's home, of what its agent sees at the vifs of `domid`."""
    return f"{UP_HEADERS_DIR}/{domid}"


def absolute(domid: int, relative: str) -> str:
    """Return dom0's absolute path of `relative` in the home of `domid`."""
    return f"/local/domain/{domid}/{relative}"
