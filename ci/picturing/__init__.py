# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pictures of what an admin sees: a browser and a terminal that tests and the README's pictures share."""
