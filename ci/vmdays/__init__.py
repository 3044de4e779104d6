# SPDX-License-Identifier: LGPL-2.1-or-later
"""Days in the life of VMs, made from profiles and a seed: recordings, and what is true of them."""
