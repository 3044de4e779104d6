# SPDX-License-Identifier: LGPL-2.1-or-later
"""VSEM, the security monitor: what the VM sends and receives, by headers only."""
