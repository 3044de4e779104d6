# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which interfaces carry the VM's own traffic: /sys/class/net."""

from __future__ import annotations

import os

from xenwarden_guest.collectors import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenwarden_guest.collectors import Roots

_ETHERNET = b"1"  # ARPHRD_ETHER
_IFF_UP = 1
MAX_INTERFACES = 8  # sockets are made for each; a ninth vif is a rarity and is named as missing


class Interface:
    """One interface as /sys/class/net shows it."""

    __slots__ = ("address", "bridge", "device", "enslaved", "ethernet", "index", "name")

    def __init__(
        self,
        name: str,
        index: int,
        address: bytes,
        *,
        ethernet: bool,
        enslaved: bool,
        bridge: bool,
        device: bool,
    ) -> None:
        self.name = name
        self.index = index
        self.address = address  # MAC, six bytes, or empty
        self.ethernet = ethernet
        self.enslaved = enslaved  # has a master: bridge port, bond member
        self.bridge = bridge
        self.device = device  # backed by a device, not made in software

    @property
    def backend(self) -> bool:
        """Say whether this is the far end of another domain's interface."""
        return self.name.startswith("vif")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Interface) and all(
            getattr(self, slot) == getattr(other, slot) for slot in self.__slots__
        )

    def __hash__(self) -> int:
        return hash((self.name, self.index))


def names(roots: Roots) -> list[str]:
    """Return the names of all interfaces.

    Raises:
        OSError: there is no /sys/class/net.
    """
    return os.listdir(roots.sys + "/class/net")  # noqa: PTH208  pathlib costs 1 MB in the guest


def read(roots: Roots, names: Iterable[str]) -> list[Interface]:
    """Return these interfaces, by index; one that vanishes meanwhile is left out."""
    found = []
    for name in names:
        try:
            found.append(_interface(f"{roots.sys}/class/net/{name}", name))
        except (OSError, ValueError):
            continue
    found.sort(key=lambda interface: interface.index)
    return found


def is_up(roots: Roots, name: str) -> bool:
    """Say whether an interface is there and up."""
    try:
        return bool(int(read_file(f"{roots.sys}/class/net/{name}/flags"), 16) & _IFF_UP)
    except (OSError, ValueError):
        return False


def _interface(path: str, name: str) -> Interface:
    there = os.path.lexists
    return Interface(
        name,
        int(read_file(path + "/ifindex")),
        parse_address(read_file(path + "/address")),
        ethernet=read_file(path + "/type").strip() == _ETHERNET,
        enslaved=there(path + "/master"),
        bridge=there(path + "/bridge"),
        device=there(path + "/device"),
    )


def parse_address(text: bytes) -> bytes:
    """Parse `xx:xx:xx:xx:xx:xx`; anything else gives empty bytes."""
    try:
        address = bytes.fromhex(text.strip().replace(b":", b"").decode("ascii"))
    except ValueError:
        return b""
    return address if len(address) == 6 else b""


def own(interfaces: list[Interface], *, management: bool) -> list[Interface]:
    """Choose the interfaces on which the VM's own traffic is seen exactly once.

    A guest: those with a device behind them, which all that leaves the VM passes; bridges, VLANs and
    containers' veths in the guest would count it again. Without any such (a test), all but loopback.
    The management VM: neither back ends nor anything enslaved to a bridge or bond, so the bridge itself
    stays and forwarded traffic is left out.
    """
    candidates = [i for i in interfaces if i.ethernet and i.name != "lo"]
    if management:
        return [i for i in candidates if not (i.enslaved or i.backend or i.name.startswith("tap"))]
    backed = [i for i in candidates if i.device]
    return backed or [i for i in candidates if not i.enslaved]
