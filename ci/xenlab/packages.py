# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lab's machines have installed. A change here rebuilds the base images."""

from __future__ import annotations

RELEASE = "bookworm"
XEN = "xen-hypervisor-4.17-amd64"
KERNEL = "linux-image-amd64"  # a metapackage: the real one is what it depends on

COMMON = (
    "python3",
    "python3-pip",  # installs the product's wheels as a user would
    "iproute2",
    "iputils-ping",
    "procps",
    "kmod",
    "mount",
    "curl",
    "iperf3",
    "nginx-light",  # web server: what victims serve, and what dom0 offers for download
    "xenstore-utils",
)

DOM0 = (
    *COMMON,
    "xen-utils-4.17",
    "systemd-sysv",
    "dbus",  # systemctl's way to a manager that is being re-executed
    "udev",
    "bridge-utils",
    "python3-cffi",  # what the host wheel needs from Debian
    "python3-yaml",
    "python3-jsonschema",
    "python3-pyxs",
    "busybox-static",
    "tcpdump",
)

GUEST = (
    *COMMON,
    "hping3",
    "nmap",
    "stress-ng",
    "slowhttptest",
    "arping",
    "e2fsprogs",
    # What the agent's cost is measured beside.
    "collectd-core",
    "prometheus-node-exporter",
    "softflowd",
)

# Modules the initrds load, in this order: insmod does not resolve dependencies.
EXT4 = ("crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4")
INITRD_DOM0 = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    *EXT4,
)
INITRD_GUEST = ("xen-blkfront", *EXT4, "overlay")

# Parts of the kernel's modules that are kept: what a dom0 and a PV or PVH guest can use.
MODULES = (
    "arch",
    "block",
    "crypto",
    "lib",
    "mm",
    "net/802",
    "net/8021q",
    "net/bridge",
    "net/core",
    "net/ipv4",
    "net/ipv6",
    "net/llc",
    "net/netfilter",
    "net/netlink",
    "net/packet",
    "net/sched",
    "net/unix",
    "drivers/block",
    "drivers/char",
    "drivers/md",
    "drivers/tty",
    "drivers/virtio",
    "drivers/xen",
    "drivers/net/*.ko",
    "drivers/net/xen-netback",
    "fs/ext4",
    "fs/jbd2",
    "fs/mbcache.ko",
    "fs/nls",
    "fs/overlayfs",
    "fs/xfs",
)
