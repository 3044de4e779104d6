# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kernels print in a VM: the agent's collectors read these in tests, and the fuzzer begins with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

INTERFACE = "xenfixture0"  # none that a machine has: no test opens a socket on it

SNMP = b"""\
Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards
Ip: 2 64 38022 0 0 0 0 0
Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects
Icmp: 1001 0 0 1001 4 0 0 0
IcmpMsg: InType3 OutType3
IcmpMsg: 1001 1000
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs \
OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 273 2 9 0 0 35435 19066 31 0 143 0
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 586 1000 20 1588 7 300 0 0 0
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors
UdpLite: 0 0 5 0 0 0 0
"""
SNMP6 = b"""\
Ip6InReceives                   \t12
Icmp6InDestUnreachs             \t50
Icmp6InTimeExcds                \t6
Udp6InErrors                    \t7000
Udp6SndbufErrors                \t80000
UdpLite6InErrors                \t1
"""
NETSTAT = b"""\
TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed TW ListenOverflows ListenDrops TCPHPHits TCPPureAcks
TcpExt: 3 0 0 705 40 41 977 1012
IpExt: InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InOctets
IpExt: 0 0 0 0 9000
"""
NETDEV = b"""\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|\
bytes    packets errs drop fifo colls carrier compressed
    lo:  887193    2029    0    0    0     0    0    0   887193    2029    0    0    0     0    0    0
  eth0:1470275983   36009    0    1    0     0    0    0  1837357   19640    0    7    0     0    0    0
"""
STAT = b"""\
cpu  1000 20 300 5000 400 0 5 70 11 0
cpu0 600 10 150 2500 200 0 5 35 11 0
cpu1 400 10 150 2500 200 0 0 35 0 0
intr 3164033 0 8000 0 7000 0 0 0 0 0 0 0 0 0 0 0 0 352 41 1002 5003 0 0 0
ctxt 8747937
btime 1763886000
processes 12345
procs_running 3
procs_blocked 0
softirq 2047 0 1 2 3
"""
MEMINFO = b"""\
MemTotal:        2000000 kB
MemFree:          100000 kB
MemAvailable:    1500000 kB
Buffers:           10000 kB
SwapCached:            0 kB
SwapTotal:        500000 kB
SwapFree:         400000 kB
HugePages_Total:       0
"""
DISKSTATS = b"""\
 202       0 xvda 100 5 2000 10 50 6 1000 20 0 30 40 7 0 0 0 3 9
 202       1 xvda1 90 5 1900 10 50 6 1000 20 0 30 40 7 0 0 0 0 0
 254       0 vda 10 0 10 0 10 0 10 0 0 0 0 0 0 0 0 0 0
   7       0 loop0 1000 0 99999 0 0 0 0 0 0 0 0 0 0 0 0 0 0
"""
PRESSURE = b"""\
some avg10=0.12 avg60=0.40 avg300=1.01 total=123456
full avg10=0.00 avg60=0.00 avg300=0.00 total=99
"""
# As Linux 6.1 prints them in a PV guest with two vCPUs.
INTERRUPTS = b"""\
           CPU0       CPU1
  1:       8000          0  xen-percpu    -virq      timer0
  3:          0       7000  xen-percpu    -ipi       resched1
 16:        352          0   xen-dyn    -event     xenbus
 17:         40          1   xen-dyn    -event     hvc_console
 18:       1000          2   xen-dyn-lateeoi    -event     blkif
 19:       5000          3   xen-dyn-lateeoi    -event     eth0-q0-tx
NMI:          0          0   Non-maskable interrupts
HYP:      20000      10000   Hypervisor callback interrupts
ERR:          0
"""

# The whole of what the agent reads, by path below the root.
FILES = {
    "proc/net/snmp": SNMP,
    "proc/net/snmp6": SNMP6,
    "proc/net/netstat": NETSTAT,
    "proc/net/dev": NETDEV.replace(b"  eth0", INTERFACE.encode()),
    "proc/stat": STAT,
    "proc/meminfo": MEMINFO,
    "proc/diskstats": DISKSTATS,
    "proc/pressure/cpu": PRESSURE,
    "proc/pressure/memory": PRESSURE,
    "proc/pressure/io": PRESSURE,
    "proc/interrupts": INTERRUPTS,
    "proc/self/statm": b"6004 2385 1411 1 0 1205 0\n",
    "proc/xen/capabilities": b"",
    "sys/hypervisor/type": b"xen\n",
    "sys/block/xvda/device": b"",
    f"sys/class/net/{INTERFACE}/ifindex": b"2\n",
    f"sys/class/net/{INTERFACE}/address": b"00:16:3e:00:00:01\n",
    f"sys/class/net/{INTERFACE}/type": b"1\n",
    f"sys/class/net/{INTERFACE}/flags": b"0x1003\n",
    f"sys/class/net/{INTERFACE}/device": b"",
}


def plant(root: Path) -> None:
    """Make a root directory of them."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
