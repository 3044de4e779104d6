# SPDX-License-Identifier: LGPL-2.1-or-later
"""XenStore channel of xenwarden: what guests and dom0 say to each other, and how.

The guest agent imports this package too, so importing it must stay cheap: nothing is
imported here, and no module that the agent needs may import `enum`, `dataclasses`, `json`,
`typing` or `threading` at run time (each costs memory in every VM).
"""

__version__ = "0.1.0"
