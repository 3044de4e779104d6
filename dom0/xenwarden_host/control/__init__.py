# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control socket: JSON lines over a Unix socket, who may do what by the peer's credentials."""
