# SPDX-License-Identifier: LGPL-2.1-or-later
"""A scenario as data: the host, the guests, what happens when, what is expected."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = uuid.UUID(
    "6c1d4a2e-7f0b-5d3a-9e58-0c5b7a1f2d44"
)  # any fixed one: a guest's UUID follows its name
FIRST_ADDRESS = 10  # guest n is 10.0.0.(10 + n); dom0 is 10.0.0.1


class Place(StrEnum):
    """Whether there is another host on the machine's network."""

    ALONE = "alone"
    FIRST = "first"
    SECOND = "second"  # dom0 is 10.0.0.2; guests are not started here, they come by migration


@dataclass(frozen=True, slots=True)
class Host:
    """What the machine and dom0 are like."""

    scheduler: str = "credit"
    xenstored: str = "xenstored"
    init: str = "fast"
    memory_mb: int = 1024
    vcpus: int = 1
    weight: int = 512  # dom0's, in a scheduler that gives each guest 256
    xenwarden: bool = True
    packages: bool = False  # the Debian packages stand in dom0, for the scenario to install
    policy: dict[str, Any] | None = None
    place: Place = Place.ALONE

    @property
    def address(self) -> str:
        """The IPv4 address of its dom0."""
        return "10.0.0.2" if self.place is Place.SECOND else "10.0.0.1"


@dataclass(frozen=True, slots=True)
class Vif:
    """One network interface. `rate` as in xl.cfg's vif line, such as `10Mb/s`."""

    rate: str | None = None


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest. `weight` and `cap` are what the admin gave it."""

    name: str
    index: int
    type: str = "pv"
    memory_mb: int = 192
    max_memory_mb: int | None = None  # what it can balloon up to
    vcpus: int = 1
    vifs: tuple[Vif, ...] = (Vif(),)
    agent: bool = True
    weight: int | None = None
    cap: int | None = None

    @property
    def uuid(self) -> str:
        """The same in each run, so that what is kept by UUID is the same guest's."""
        return str(uuid.uuid5(NAMESPACE, self.name))

    def address(self, vif: int) -> str:
        """Return the IPv4 address of its vif number `vif`."""
        return f"10.0.{vif}.{FIRST_ADDRESS + self.index}"

    def mac(self, vif: int) -> str:
        """Return the MAC address of its vif number `vif`."""
        return f"00:16:3e:00:{vif:02x}:{FIRST_ADDRESS + self.index:02x}"


@dataclass(frozen=True, slots=True)
class Machine:
    """Host and guests: all that a booted lab depends on, and so what a snapshot is for."""

    host: Host
    guests: tuple[Guest, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario file."""

    path: Path
    name: str
    description: str
    machine: Machine
    steps: tuple[dict[str, Any], ...] = ()
    expect: dict[str, Any] = field(default_factory=dict)
