# SPDX-License-Identifier: LGPL-2.1-or-later
"""A booted lab: Xen, dom0, guests. Started from a snapshot where there is one that fits."""

from __future__ import annotations

import dataclasses
import shutil
import time
from typing import TYPE_CHECKING, Self

import yaml

from xenlab import layers, progress, qemu, store
from xenlab.errors import LabError
from xenlab.link import Link
from xenlab.scenario import Place

if TYPE_CHECKING:
    from pathlib import Path

    from xenlab.scenario import Guest, Machine

BOOT_TIMEOUT_S = {"fast": 240, "systemd": 480}  # without KVM, on a machine that does other things too
GUEST_TIMEOUT_S = 600  # PVH under TCG pages through two tables in software: ten times slower than PV
REPORT_TIMEOUT_S = 120
SHUTDOWN_TIMEOUT_S = 300
POLL_S = 5.0
SNAPSHOTS_KEPT = 6
POLICY = "/etc/xen/xenwarden.yaml"


class Lab:
    """One running machine with its guests. Use as a context manager: it cleans up."""

    def __init__(self, machine: Machine, images: layers.Images, accel: str, *, keep: bool = False) -> None:
        self.machine = machine
        self.images = images
        self.keep = keep
        self.hardware = _hardware(machine, accel)
        self.run = qemu.Run()
        self._qemu: qemu.Qemu | None = None
        self._link: Link | None = None
        for name, file in (
            ("xen", images.base.xen),
            ("vmlinuz", images.base.kernel),
            ("initrd-dom0.gz", images.boot / "initrd-dom0.gz"),
        ):
            (self.run.path / name).symlink_to(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def link(self) -> Link:
        """The line to dom0's agent."""
        if self._link is None:
            raise LabError("The machine is not running.")
        return self._link

    def start(self) -> None:
        """Bring the machine up with all guests: from a snapshot, made first if there is none yet."""
        key = store.key_of(
            [
                qemu.version(),
                str(store.cache_dir()),  # overlays name their images by path
                self.images.key,
                self.hardware.arguments(),
                dataclasses.asdict(self.machine),
                layers.debs().name if self.machine.host.packages else "",
            ],
            [store.HERE / "machine.py", store.HERE / "qemu.py"],
        )
        snapshot = store.build("snapshot", key, self._make_snapshot, keep=SNAPSHOTS_KEPT)
        try:
            self._resume(snapshot)
        except LabError as e:
            progress.say(f"the snapshot does not resume ({e.message}): a new one is made")
            self._power_off()
            shutil.rmtree(snapshot, ignore_errors=True)
            self._resume(store.build("snapshot", key, self._make_snapshot, keep=SNAPSHOTS_KEPT))

    def wire(self, other: Lab) -> None:
        """Join the networks of two machines, `Place.FIRST` and `Place.SECOND`; before both are started."""
        (self.run.path / "peer").symlink_to(other.run.path)
        (other.run.path / "peer").symlink_to(self.run.path)

    def reboot(self) -> None:
        """Reboot dom0 in order, and with it the machine; the disk stays. Guests are started again."""
        self.link.send("run", command="systemctl reboot || reboot", timeout_s=60)
        assert self._qemu  # noqa: S101  -- link is there, so QEMU is
        if not self._qemu.wait_end(SHUTDOWN_TIMEOUT_S):
            raise LabError(f"dom0 did not go down in {SHUTDOWN_TIMEOUT_S} s.", output=self.console_tail())
        self._power_off()
        self._boot()

    def console_tail(self, guest: str | None = None) -> str:
        """Return the end of the console of `guest`, else of Xen and dom0."""
        if guest:
            return str(self.link.ask("console", guest=guest)["output"])[-3000:]
        if not self.run.console.exists():
            return ""
        return self.run.console.read_text(errors="replace")[-3000:]

    def emulator_fault(self) -> str | None:
        """Tell whether QEMU's emulation of nested SVM broke a PVH guest; None where nothing says so.

        TCG now and then lets an HVM guest run with a piece of Xen's own state (seen in QEMU 7.2 with one and
        with two CPUs, and mostly while the machine is busy). Xen reports the triple fault that follows,
        or the guest's kernel panics, or nothing answers any more. Such a run tells nothing.
        """
        guests = [g.name for g in self.machine.guests if g.type == "pvh"]
        if self.hardware.accel != "tcg" or not guests:
            return None
        try:
            if self.link.run("xl dmesg | grep -E 'Dumping Dom[0-9]+ vcpu'")["status"] == 0:
                return "QEMU's emulation of SVM led a PVH guest into a triple fault"
            for name in guests:
                if "Kernel panic" in self.console_tail(name):
                    return f"QEMU's emulation of SVM led {name}'s kernel into a panic"
        except LabError:
            return "the machine answers no more, as under QEMU's emulation of SVM now and then"
        return None

    def close(self) -> None:
        """End the machine and remove its files; nothing is left."""
        self._power_off()
        self.run.close()

    # --- power ------------------------------------------------------------------------------------

    def _power_on(self, load: Path | None = None) -> None:
        self.run.console.unlink(missing_ok=True)
        self._qemu = qemu.Qemu(self.run, self.hardware, self.images, load=load, keep=self.keep)
        self._link = Link(self.run.path / "lab.sock")

    def _power_off(self) -> None:
        if self._link:
            self._link.close()
            self._link = None
        if self._qemu:
            self._qemu.kill()
            self._qemu = None

    def _resume(self, snapshot: Path) -> None:
        start = time.monotonic()
        for disk, readonly in qemu.disks(self.run, self.hardware, self.images):
            if not readonly:
                qemu.overlay(disk, snapshot / disk.name, "qcow2")
        self._power_on(load=snapshot / "ram")
        self._pause_hvm("unpause")
        progress.say(f"machine resumed from its snapshot in {time.monotonic() - start:.1f} s")

    def _make_snapshot(self, work: Path) -> None:
        qemu.make_overlays(self.run, self.hardware, self.images)
        self._boot()
        start = time.monotonic()
        self._pause_hvm("pause")
        # A connection that is open at the time of the snapshot would be in it as an open one.
        self.link.close()
        assert self._qemu  # noqa: S101  -- _boot started it
        self._qemu.save(work / "ram")
        self._power_off()
        for disk, readonly in qemu.disks(self.run, self.hardware, self.images):
            if not readonly:
                disk.rename(work / disk.name)
        size_mb = sum(f.stat().st_blocks for f in work.iterdir()) * 512 // 1_000_000
        progress.say(f"snapshot saved in {time.monotonic() - start:.1f} s ({size_mb} MB)")

    def _pause_hvm(self, verb: str) -> None:
        """Pause or unpause PVH guests: QEMU cannot load a state in which a CPU is inside one."""
        names = [g.name for g in self._started() if g.type == "pvh"]
        self.link.check("; ".join(["true", *(f"xl {verb} {name}" for name in names)]))

    # --- boot ---------------------------------------------------------------------------------------

    def _started(self) -> tuple[Guest, ...]:
        """Return the guests that are started here."""
        return () if self.machine.host.place is Place.SECOND else self.machine.guests

    def _boot(self) -> None:
        host = self.machine.host
        start = time.monotonic()
        progress.say(f"booting Xen with {host.scheduler}, dom0 with {host.xenstored} ({host.init} init)")
        self._power_on()
        self._wait_dom0(BOOT_TIMEOUT_S[host.init])
        self._wait_xen()
        progress.say(f"dom0 is up after {time.monotonic() - start:.1f} s")
        self._prepare_dom0()
        for guest in self._started():
            self._create(guest)
        # Started only now: a guest that boots would slow down the making of the next.
        self.link.check("; ".join(["true", *(f"xl unpause {g.name}" for g in self._started())]))
        for guest in self._started():
            self._wait_guest(guest)
        progress.say(f"all guests are up after {time.monotonic() - start:.1f} s")
        if host.xenwarden:
            self._wait_reports()

    def _wait_dom0(self, timeout_s: float) -> None:
        assert self._qemu  # noqa: S101  -- just started
        end = time.monotonic() + timeout_s
        while not self.link.wait_event("hello", POLL_S):
            try:
                self._qemu.check_alive()
                if time.monotonic() > end:
                    raise LabError(f"no word of it in {timeout_s:.0f} s.")  # noqa: TRY301
            except LabError as e:
                tail = f"{self.console_tail()}\n{e.output}"
                raise LabError(
                    f"dom0 did not come up: {e.message}", "The end of its console is above.", tail
                ) from e

    def _wait_xen(self) -> None:
        # Under systemd, the lab's agent does not wait for Xen's daemons: their failure is told here.
        command = "for i in $(seq 600); do xl list >/dev/null 2>&1 && exit 0; sleep 0.2; done; xl list"
        result = self.link.run(command, 180)
        if result["status"] != 0:
            raise LabError(
                "Xen's tools do not work in dom0.", output=f"{result['output']}\n{self.console_tail()}"
            )

    def _prepare_dom0(self) -> None:
        host = self.machine.host
        hosts = ["127.0.0.1 localhost", f"{host.address} dom0"]
        hosts += [f"{g.address(0)} {g.name}" for g in self.machine.guests]
        # As Xen's own advice for hosts with busy guests: a starved dom0 starves netback and xenstored.
        self.link.check(f"xl sched-{host.scheduler} -d 0 -w {host.weight}")
        self.link.put("/etc/hosts", "".join(f"{h}\n" for h in hosts).encode())
        if host.packages:
            # Nothing but Debian is left: not what the wheels installed.
            self.link.check("umount /usr/local; mkdir -p /root/dist")
            for package in layers.debs().glob("*.deb"):
                self.link.put(f"/root/dist/{package.name}", package.read_bytes())
        if not host.xenwarden:
            return
        if host.policy is not None:
            self.link.put(POLICY, yaml.safe_dump(host.policy, sort_keys=False).encode())
        if host.init == "systemd":
            self.link.check("systemctl enable --now xenwardend.service xenwarden-agent-dom0.service", 120)
        else:
            for command in ("xenwardend", "xenwarden-agent"):
                self.link.check(f"setsid {command} </dev/null >>/var/log/{command}.log 2>&1 &")

    def _create(self, guest: Guest) -> None:
        path, host = f"/etc/xen/{guest.name}.cfg", self.machine.host
        config = _xl_config(
            guest, self.machine.guests, agent=guest.agent and (host.xenwarden or host.packages)
        )
        self.link.put(path, config.encode())
        start = time.monotonic()
        result = self.link.run(f"xl create -p {path}", 180)
        if result["status"] != 0:
            raise LabError(
                f"xl could not create {guest.name}.", output=result["output"] + self.console_tail()
            )
        self.link.ask("attach", guest=guest.name)
        progress.say(f"{guest.name} created ({guest.type}, xl create took {time.monotonic() - start:.1f} s)")

    def _wait_guest(self, guest: Guest) -> None:
        end = time.monotonic() + GUEST_TIMEOUT_S
        why = ""
        while not self.link.wait_event("guest-hello", POLL_S, guest=guest.name):
            if self.link.run(f"xl domid {guest.name}")["status"] != 0:
                why = "it died"
            elif time.monotonic() > end:
                why = f"no word of it in {GUEST_TIMEOUT_S} s"
            if why:
                seen = self.link.run("xl list; xl dmesg | tail -n 15")["output"]
                raise LabError(
                    f"{guest.name} did not come up: {why}.",
                    "The end of its console is above.",
                    f"{seen}\n{self.console_tail(guest.name)}",
                )

    def _wait_reports(self) -> None:
        names = ["Domain-0", *(g.name for g in self._started() if g.agent)]
        progress.say("waiting for the agents' first reports")
        for name in names:
            path = f"/local/domain/$(xl domid {name})/data/xenwarden/report"
            command = f"for i in $(seq 600); do xenstore-exists {path} && exit 0; sleep 0.2; done; exit 1"
            if self.link.run(command, REPORT_TIMEOUT_S)["status"] != 0:
                raise LabError(
                    f"The agent of {name} has not reported within {REPORT_TIMEOUT_S} s.",
                    output=self._logs(name),
                )

    def _logs(self, name: str) -> str:
        if name in {g.name for g in self.machine.guests}:
            return str(self.link.run("tail -n 30 /var/log/xenwarden-agent.log", guest=name)["output"])
        files = "tail -n 30 /var/log/xenwardend.log /var/log/xenwarden-agent.log"
        journal = "journalctl -n 60 --no-pager -u xenwardend -u xenwarden-agent-dom0"
        return str(self.link.run(journal if self.machine.host.init == "systemd" else files)["output"])


def _hardware(machine: Machine, accel: str) -> qemu.Hardware:
    host = machine.host
    # No `noreboot`: where Xen or dom0's kernel panics, QEMU ends, and the lab knows at once.
    memory = f"{host.memory_mb}M,max:{host.memory_mb}M"
    alone = host.place is Place.ALONE
    wired = "" if alone else f" lab.wired={host.address}"
    mac = None if alone else f"52:54:00:00:00:0{host.address[-1]}"
    return qemu.Hardware(
        accel=accel,
        # QEMU's emulation of SVM loses far more PVH guests with two CPUs than with one.
        cpus=1 if accel == "tcg" and any(g.type == "pvh" for g in machine.guests) else 2,
        memory_mb=host.memory_mb + sum(g.memory_mb for g in machine.guests) + qemu.XEN_MB,
        scratch_disks=len(machine.guests),
        xen_arguments=(
            f"console=com1 com1=115200,8n1 dom0_mem={memory} dom0_max_vcpus={host.vcpus} "
            f"loglvl=warning guest_loglvl=warning sched={host.scheduler}"
        ),
        # clocksource and tsc: no switch of clocks in the middle of a run.
        dom0_arguments=(
            "console=hvc0 quiet clocksource=xen tsc=unstable net.ifnames=0 "
            f"lab.init={host.init} lab.xenstored={host.xenstored}{wired}"
        ),
        mac=mac,
    )


def _xl_config(guest: Guest, guests: tuple[Guest, ...], *, agent: bool) -> str:
    hosts = ",".join(["dom0=10.0.0.1", *(f"{g.name}={g.address(0)}" for g in guests)])
    addresses = ",".join(guest.address(i) for i in range(len(guest.vifs)))
    extra = (
        f"console=hvc0 quiet net.ifnames=0 lab.name={guest.name} lab.vifs={addresses} lab.hosts={hosts} "
        f"lab.agent={int(agent)}"
    )
    # vdb and vdd are the images that all guests share; scratch disks follow in the guests' order.
    disks = [
        ("xvda", "ro", "/dev/vdb"),
        ("xvdb", "ro", "/dev/vdd"),
        ("xvdc", "rw", f"/dev/vd{chr(101 + guest.index)}"),
    ]
    vifs = []
    for i, vif in enumerate(guest.vifs):
        rate = f",rate={vif.rate}" if vif.rate else ""
        vifs.append(f"mac={guest.mac(i)},bridge=xenbr0,script=/run/xenlab/vif-lab{rate}")
    lines = {
        "name": guest.name,
        "type": guest.type,
        "uuid": guest.uuid,
        "kernel": "/boot/vmlinux-guest",
        "ramdisk": "/run/xenlab/initrd-guest.gz",
        "memory": guest.memory_mb,
        "vcpus": guest.vcpus,
        "extra": extra,
        "disk": [
            f"format=raw,vdev={vdev},access={access},script=/run/xenlab/block-lab,target={target}"
            for vdev, access, target in disks
        ],
        "vif": vifs,
        "on_crash": "destroy",
    }
    if guest.max_memory_mb is not None:
        lines["maxmem"] = guest.max_memory_mb
    if guest.weight is not None:
        lines["cpu_weight"] = guest.weight
    if guest.cap is not None:
        lines["cap"] = guest.cap
    return "".join(f"{name} = {_xl(value)}\n" for name, value in lines.items())


def _xl(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_xl(v) for v in value) + "]"
    return str(value) if isinstance(value, int) else f'"{value}"'
