# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frame messages on a guest's console: base64 in a marked line with a checksum.

Kernel messages may stand before, after and in the midst of a line. A line that they broke does not
match its checksum and is dropped; the sender repeats it. Standard library only.
"""

from __future__ import annotations

import base64
import binascii
import json
import re

MARK = b"\x02lab:"
_LINE = re.compile(rb"\x02lab:([A-Za-z0-9+/=]*):([0-9a-f]{8})")


def encode(message: dict[str, object]) -> bytes:
    """Return the line for `message`, with a line end on both sides."""
    body = base64.b64encode(json.dumps(message, separators=(",", ":")).encode())
    return b"\n%s%s:%08x\n" % (MARK, body, binascii.crc32(body))


def decode(line: bytes) -> dict[str, object] | None:
    """Return the message of `line`, None where it holds none that is whole."""
    found = _LINE.search(line)
    if not found or binascii.crc32(found[1]) != int(found[2], 16):
        return None
    message = json.loads(base64.b64decode(found[1]))
    return message if isinstance(message, dict) else None
