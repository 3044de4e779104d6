# SPDX-License-Identifier: LGPL-2.1-or-later
"""Record what entered the decision core, and run the very same core on it again."""
