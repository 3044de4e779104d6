# SPDX-License-Identifier: LGPL-2.1-or-later
"""Classic BPF: the two programs that look at packets inside the kernel.

`classifier` gives each packet the number of its class; the kernel counts it there and user space never
sees it. `sampler` picks a few packets and returns the length of their headers, so that the kernel cuts
the rest off before user space. Both read the same layers, each load relative to the link-layer header; what
is plain TCP or UDP over IPv4 they know by fixed offsets.

Instruction set and extensions: Linux, Documentation/networking/filter.rst and include/uapi/linux/filter.h.
"""

from __future__ import annotations

from sys import byteorder

from xenwarden_guest.vsem.plan import HASH_1, HASH_2, WORD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from xenwarden_guest.vsem.plan import Plan

# Opcodes (class | size | mode).
_LD_W_ABS, _LD_H_ABS, _LD_B_ABS = 0x20, 0x28, 0x30
_LD_W_IND, _LD_H_IND, _LD_B_IND = 0x40, 0x48, 0x50
_LD_MEM, _LDX_IMM, _LDX_MEM, _ST, _STX, _TAX, _TXA = 0x60, 0x01, 0x61, 0x02, 0x03, 0x07, 0x87
_ADD_K, _ADD_X, _MUL_K, _AND_K, _LSH_K, _RSH_K, _XOR_K, _XOR_X = (
    0x04,
    0x0C,
    0x24,
    0x54,
    0x64,
    0x74,
    0xA4,
    0xAC,
)
_JA, _JEQ, _JGT, _JGE, _JSET = 0x05, 0x15, 0x25, 0x35, 0x45
_RET_K, _RET_A, _LD_IMM = 0x06, 0x16, 0x00

_AD = 0xFFFFF000  # SKF_AD_OFF: what the kernel knows beside the bytes
_AD_PROTOCOL, _AD_PKTTYPE, _AD_TAGGED, _AD_RANDOM = _AD, _AD + 4, _AD + 48, _AD + 56
_LL = 0xFFE00000  # SKF_LL_OFF: relative to the link-layer header, on both ways through the kernel

_HOST, _OTHERHOST, _OUTGOING = 0, 3, 4  # PACKET_*: whose frame it is
_VLAN, _QINQ, _IPV4, _IPV6, _ARP = 0x8100, 0x88A8, 0x0800, 0x86DD, 0x0806
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DEST_OPTIONS = 0, 43, 44, 60
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_ICMP_REQUESTS = (8, 13, 15, 17)  # echo, timestamp, information, address mask
_ICMP6_ECHO_REQUEST = 128

# Header bytes that the sampler lets through behind the IP header: up to TCP's flags, the whole of UDP's
# header, ICMP's type, code and checksum. Never more, so that a wrong length field lets nothing through.
TCP_BYTES, UDP_BYTES, ICMP_BYTES, ARP_BYTES = 14, 8, 4, 28

# The classes, in the order of their numbers. "none" is not this VM's own, or ends within its headers.
CLASSES = (
    "none",
    "tx_syn",
    "rx_syn",
    "tx_synack",
    "rx_synack",
    "tx_rst",
    "rx_rst",
    "tx_udp",
    "rx_udp",
    "tx_icmp",
    "rx_icmp",
    "tx_arp",
    "tx_other",
    "rx_other",
)
# Where the classifier arrives, and the class of a sent packet there; a received one's is the next.
_ANSWERS = (
    ("syn", "tx_syn"),
    ("synack", "tx_synack"),
    ("rst", "tx_rst"),
    ("udp", "tx_udp"),
    ("icmp_request", "tx_icmp"),
    ("link_only", "tx_other"),
    ("ipv4_bad", "tx_other"),
    ("unclassified", "tx_other"),
)
# Scratch memory: direction; next header or a length; protocol; X; the peer's address, folded; a random word.
_SCRATCH_RX, _SCRATCH_NEXT, _SCRATCH_PROTOCOL, _SCRATCH_X, _SCRATCH_PEER, _SCRATCH_CHANCE = range(6)
_IPV6_EXTENSIONS = 3  # how many extension headers are walked; a longer chain is of class "other"


class Program:
    """An assembler with labels; jumps go forward only, as classic BPF wants them."""

    __slots__ = ("_code", "_labels")

    def __init__(self) -> None:
        self._code: list[tuple[int, str, str, int]] = []
        self._labels: dict[str, int] = {}

    def op(self, code: int, value: int = 0) -> None:
        """Add an instruction."""
        self._code.append((code, "", "", value))

    def jump(self, code: int, value: int, true: str = "", false: str = "") -> None:
        """Add a conditional jump; an empty label is the next instruction."""
        self._code.append((code, true, false, value))

    def goto(self, label: str) -> None:
        """Add a jump."""
        self._code.append((_JA, label, "", 0))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._code)

    def assemble(self) -> bytes:
        """Return the program as an array of struct sock_filter, in the machine's byte order."""
        out = bytearray()
        for at, (code, true, false, given) in enumerate(self._code):
            value, yes, no = given, 0, 0
            if code == _JA:
                value = self._labels[true] - at - 1
            else:
                yes = self._labels[true] - at - 1 if true else 0
                no = self._labels[false] - at - 1 if false else 0
            out += code.to_bytes(2, byteorder) + bytes((yes, no)) + value.to_bytes(4, byteorder)
        return bytes(out)


def classifier(own_mac: bytes = b"", *, backend: bool = False) -> bytes:
    """Return the program that gives a packet the index of its class in CLASSES.

    `own_mac` is given for a bridge: then only frames from or to it count. `backend`: the interface is the far
    end of a guest's, and it is the guest that sends and receives.
    """
    p = Program()
    _direction(p, _classify_plain, own_mac, backend=backend)
    _layers(p)
    p.label("fragment")
    p.jump(_JEQ, _UDP, "udp", "unclassified")
    p.label("layer4")
    p.jump(_JEQ, _TCP, "tcp")
    p.jump(_JEQ, _UDP, "udp")
    p.jump(_JEQ, _ICMP, "icmp")
    p.jump(_JEQ, _ICMP6, "icmp6", "unclassified")
    p.label("tcp")
    p.op(_LD_B_IND, _LL + 13)
    p.jump(_JSET, _RST, "rst")
    p.op(_AND_K, _SYN | _ACK)
    p.jump(_JEQ, _SYN, "syn")
    p.jump(_JEQ, _SYN | _ACK, "synack", "unclassified")
    p.label("icmp")
    p.op(_LD_B_IND, _LL)
    for kind in _ICMP_REQUESTS:
        p.jump(_JEQ, kind, "icmp_request")
    p.goto("unclassified")
    p.label("icmp6")
    p.op(_LD_B_IND, _LL)
    p.jump(_JEQ, _ICMP6_ECHO_REQUEST, "icmp_request", "unclassified")
    p.label("arp")
    p.op(_LD_MEM, _SCRATCH_RX)
    p.jump(_JEQ, 0, "arp_sent", "unclassified")
    p.label("arp_sent")
    p.op(_RET_K, CLASSES.index("tx_arp"))
    for label, name in _ANSWERS:
        p.label(label)
        p.op(_LD_MEM, _SCRATCH_RX)  # 1 for received, whose class is the next
        p.op(_ADD_K, CLASSES.index(name))
        p.op(_RET_A)
    p.label("none")
    p.op(_RET_K, CLASSES.index("none"))
    return p.assemble()


def sampler(sent: Plan, received: Plan, own_mac: bytes = b"", *, backend: bool = False) -> bytes:
    """Return the program that takes packets by the plan of their direction, cut to their headers.

    Only packets with an IP or ARP address: the others have no peer. Only headers of fixed length, so that
    no length field, which the sender chooses, lets payload through: behind IP options and IPv6 extension
    headers nothing is taken.
    """
    p = Program()
    by_peer = not (sent.takes_all and received.takes_all)

    def plain(p: Program, way: str, _ip_at: int) -> None:
        _sample_plain(p, way, sent if way == "tx" else received, by_peer=by_peer)

    _direction(p, plain, own_mac, backend=backend)
    _layers(p, by_peer=by_peer, fixed_only=True)
    p.label("layer4")
    for protocol, label in ((_TCP, "tcp"), (_UDP, "udp"), (_ICMP, "icmp"), (_ICMP6, "icmp")):
        p.jump(_JEQ, protocol, label)
    p.label("fragment")  # and other protocols: nothing behind the IP header
    _goto_with(p, 0, "other")
    p.label("tcp")
    p.op(_LD_B_IND, _LL + 13)
    p.op(_AND_K, _SYN | _ACK)
    p.jump(_JEQ, _SYN, "", "tcp_other")
    _goto_with(p, TCP_BYTES, "syn")
    p.label("tcp_other")
    _goto_with(p, TCP_BYTES, "other")
    for label, size in (("udp", UDP_BYTES), ("icmp", ICMP_BYTES), ("arp", 2 + ARP_BYTES)):
        p.label(label)
        _goto_with(p, size, "other")
    for kind in ("syn", "other"):
        p.label(kind)
        p.op(_LD_MEM, _SCRATCH_RX)
        p.jump(_JEQ, 1, f"{kind}_received")
        _by_chance(p, sent, kind, "sent")
        p.label(f"{kind}_received")
        _by_chance(p, received, kind, "received")
    for plan, way in ((sent, "sent"), (received, "received")):
        if not plan.takes_all:
            _by_peer(p, plan, way)
    p.label("taken")
    p.op(_LD_MEM, _SCRATCH_NEXT)
    p.op(_ADD_X)
    p.op(_RET_A)
    for label in ("none", "link_only", "ipv4_bad"):
        p.label(label)
    p.op(_RET_K, 0)
    return p.assemble()


def _goto_with(p: Program, size: int, label: str) -> None:
    """Go on with the number of bytes wanted behind X kept."""
    p.op(_LD_IMM, size)
    p.op(_ST, _SCRATCH_NEXT)
    p.goto(label)


def _by_chance(p: Program, plan: Plan, kind: str, way: str) -> None:
    """Go on at "taken" where chance has it, else at the slice."""
    if not plan.takes_all:
        p.op(_LD_MEM, _SCRATCH_CHANCE)
        p.jump(_JGT, WORD >> (plan.syn_shift if kind == "syn" else plan.shift), f"{way}_by_peer")
    p.goto("taken")


def _by_peer(p: Program, plan: Plan, way: str) -> None:
    """Go on at "taken" where the peer's address is in the slice, else at "none"."""
    p.label(f"{way}_by_peer")
    p.op(_STX, _SCRATCH_X)
    _hash_peer(p, plan)
    p.op(_LDX_MEM, _SCRATCH_X)
    p.jump(_JGT, WORD >> plan.slice_shift, "none")
    p.goto("taken")


def _hash_peer(p: Program, plan: Plan) -> None:
    """Leave in A what `address_hash` makes of the peer's address; X is lost."""
    p.op(_LD_MEM, _SCRATCH_PEER)
    p.op(_XOR_K, plan.salt)
    p.op(_MUL_K, HASH_1)
    p.op(_TAX)
    p.op(_RSH_K, 16)
    p.op(_XOR_X)
    p.op(_MUL_K, HASH_2)


def counted_only() -> bytes:
    """Return the program of a socket that only counts: whatever is queued is one byte."""
    p = Program()
    p.op(_RET_K, 1)
    return p.assemble()


def arp_only(size: int, *, sent: bool) -> bytes:
    """Return the program that takes `size` bytes of ARP without a VLAN tag: of what is `sent`, or comes in.

    Networks that tags divide may use the same addresses.
    """
    p = Program()
    p.op(_LD_H_ABS, _AD_PROTOCOL)
    p.jump(_JEQ, _ARP, "", "none")
    p.op(_LD_B_ABS, _AD_TAGGED)
    p.jump(_JEQ, 0, "", "none")
    p.op(_LD_B_ABS, _AD_PKTTYPE)
    if sent:
        p.jump(_JEQ, _OUTGOING, "", "none")
    else:
        p.jump(_JEQ, _OUTGOING, "none")
    p.op(_RET_K, size)
    p.label("none")
    p.op(_RET_K, 0)
    return p.assemble()


# What nearly all packets are: IPv4 without tag, options and fragments. Such a packet is looked at first, by
# loads at fixed offsets, which the kernel compiles to a few instructions each where others are calls: what a
# packet costs falls by a sixth.
def _plain_ipv4(p: Program, at: int, general: str) -> None:
    """Go on at `general` with all else; `at` is where the IPv4 header is."""
    p.op(_LD_B_ABS, at)
    p.jump(_JEQ, 0x45, "", general)
    p.op(_LD_H_ABS, at + 6)
    p.jump(_JSET, 0x1FFF, general)


def _classify_plain(p: Program, way: str, at: int) -> None:
    """Return the class of TCP and UDP over plain IPv4.

    A fan-out program finds what is sent from its Ethernet header on, what is received from the next one on.
    """
    general = f"{way}_general"
    p.op(_LD_H_ABS, 12 if at else _AD_PROTOCOL)
    p.jump(_JEQ, _IPV4, "", general)
    _plain_ipv4(p, at, general)
    p.op(_LD_B_ABS, at + 9)
    p.jump(_JEQ, _TCP, f"{way}_tcp")
    p.jump(_JEQ, _UDP, "", general)
    p.op(_RET_K, CLASSES.index(f"{way}_udp"))
    p.label(f"{way}_tcp")
    p.op(_LD_B_ABS, at + 20 + 13)
    p.jump(_JSET, _RST, f"{way}_rst")
    p.op(_AND_K, _SYN | _ACK)
    p.jump(_JEQ, _SYN, f"{way}_syn")
    p.jump(_JEQ, _SYN | _ACK, f"{way}_synack")
    p.op(_RET_K, CLASSES.index(f"{way}_other"))
    for kind in ("rst", "syn", "synack"):
        p.label(f"{way}_{kind}")
        p.op(_RET_K, CLASSES.index(f"{way}_{kind}"))
    p.label(general)


def _sample_plain(p: Program, way: str, plan: Plan, *, by_peer: bool) -> None:
    """Go on at "layer4" with plain IPv4 that may be taken: most packets are not, whatever they hold.

    A socket's filter finds all from their Ethernet header on.
    """
    general, maybe = f"{way}_general", f"{way}_maybe"
    if by_peer:  # also where this direction is taken whole: the kernel wants all that is loaded stored
        p.op(_LD_W_ABS, _AD_RANDOM)
        p.op(_ST, _SCRATCH_CHANCE)
    p.op(_LD_H_ABS, 12)
    p.jump(_JEQ, _IPV4, "", general)
    _plain_ipv4(p, 14, general)
    if by_peer:
        p.op(_LD_W_ABS, 14 + (16 if way == "tx" else 12))
        p.op(_ST, _SCRATCH_PEER)
    if not plan.takes_all:
        p.op(_LD_MEM, _SCRATCH_CHANCE)
        p.jump(_JGT, WORD >> min(plan.shift, plan.syn_shift), "", maybe)
        _hash_peer(p, plan)
        p.jump(_JGT, WORD >> plan.slice_shift, "", maybe)
        p.op(_RET_K, 0)
        p.label(maybe)
    p.op(_LDX_IMM, 14 + 20)
    p.op(_LD_B_ABS, 14 + 9)
    p.goto("layer4")
    p.label(general)


def _direction(
    p: Program, plain: Callable[[Program, str, int], None], own_mac: bytes, *, backend: bool
) -> None:
    """Leave for "none" what is not the VM's own; remember the direction in M[0], then do what is `plain`.

    `plain` is given the direction, and where an IPv4 header is in the data of a fan-out program.
    """
    at_outgoing, at_incoming = 14, 0
    p.op(_LD_B_ABS, _AD_PKTTYPE)
    if backend:
        p.jump(_JEQ, _OUTGOING, "", "sent")  # whatever comes in by a vif its guest sent, to whomever
    else:
        p.jump(_JEQ, _OUTGOING, "sent")
        if own_mac:
            p.jump(_JEQ, _HOST, "", "none")
        else:
            p.jump(_JEQ, _OTHERHOST, "none")
    p.op(_LD_IMM, 1)
    p.op(_ST, _SCRATCH_RX)
    plain(p, "rx", at_outgoing if backend else at_incoming)
    p.goto("layer2")
    p.label("sent")
    if own_mac:
        p.op(_LD_W_ABS, _LL + 6)
        p.jump(_JEQ, int.from_bytes(own_mac[:4], "big"), "", "none")
        p.op(_LD_H_ABS, _LL + 10)
        p.jump(_JEQ, int.from_bytes(own_mac[4:], "big"), "", "none")
    p.op(_LD_IMM, 0)
    p.op(_ST, _SCRATCH_RX)
    plain(p, "tx", at_incoming if backend else at_outgoing)
    p.label("layer2")


def _layers(p: Program, *, by_peer: bool = False, fixed_only: bool = False) -> None:
    """Walk to layer 4; with `by_peer`, keep the peer's address, folded to one word.

    Goes on at `layer4` (A: protocol, X: its offset), `fragment` (a later one; A: protocol), `arp`,
    `link_only` and `ipv4_bad` (X: offset of the Ethernet type). `fixed_only` does not go behind IP options
    and extension headers: their length is the sender's word. Options go on at `fragment`, extensions at
    `layer4`; X is the end of the fixed header.
    """
    for depth in range(3):  # no tag, one, two
        p.op(_LDX_IMM, 12 + 4 * depth)
        p.op(_LD_H_IND, _LL)
        if depth < 2:
            p.jump(_JEQ, _VLAN, f"tag{depth}")
            p.jump(_JEQ, _QINQ, f"tag{depth}", "layer3")
            p.label(f"tag{depth}")
    p.label("layer3")
    p.jump(_JEQ, _IPV4, "ipv4")
    p.jump(_JEQ, _IPV6, "ipv6")
    p.jump(_JEQ, _ARP, "arp_header", "link_only")
    p.label("arp_header")
    if by_peer:
        _keep_peer(p, "arp", source=(14,), dest=(24,))
    p.goto("arp")
    _ipv4(p, by_peer=by_peer, fixed_only=fixed_only)
    _ipv6(p, by_peer=by_peer, fixed_only=fixed_only)


def _keep_peer(p: Program, name: str, *, source: tuple[int, ...], dest: tuple[int, ...]) -> None:
    """Keep the exclusive-or of the address's words; offsets are in the header that X's type announces."""
    p.op(_STX, _SCRATCH_X)
    p.op(_LD_MEM, _SCRATCH_RX)
    p.jump(_JEQ, 1, f"{name}_source")
    _fold(p, dest)
    p.goto(f"{name}_kept")
    p.label(f"{name}_source")
    _fold(p, source)
    p.label(f"{name}_kept")


def _fold(p: Program, words: tuple[int, ...]) -> None:
    p.op(_LD_W_IND, _LL + 2 + words[0])
    p.op(_ST, _SCRATCH_PEER)
    for word in words[1:]:
        p.op(_LD_W_IND, _LL + 2 + word)
        p.op(_TAX)
        p.op(_LD_MEM, _SCRATCH_PEER)
        p.op(_XOR_X)
        p.op(_ST, _SCRATCH_PEER)
        p.op(_LDX_MEM, _SCRATCH_X)


def _ipv4(p: Program, *, by_peer: bool, fixed_only: bool) -> None:
    p.label("ipv4")
    if by_peer:
        _keep_peer(p, "ipv4", source=(12,), dest=(16,))
    p.op(_LD_B_IND, _LL + 2)
    p.op(_AND_K, 0x0F)
    p.jump(_JGE, 5, "", "ipv4_bad")
    if fixed_only:
        p.jump(_JEQ, 5, "", "ipv4_options")
    p.op(_LSH_K, 2)
    p.op(_ST, _SCRATCH_NEXT)  # header length
    p.op(_LD_H_IND, _LL + 2 + 6)
    p.jump(_JSET, 0x1FFF, "ipv4_later")
    _advance_ipv4(p)
    p.goto("layer4")
    if fixed_only:
        p.label("ipv4_options")
        p.op(_LD_IMM, 20)
        p.op(_ST, _SCRATCH_NEXT)
    p.label("ipv4_later")
    _advance_ipv4(p)
    p.goto("fragment")


def _ipv6(p: Program, *, by_peer: bool, fixed_only: bool) -> None:
    p.label("ipv6")
    if by_peer:
        _keep_peer(p, "ipv6", source=(8, 12, 16, 20), dest=(24, 28, 32, 36))
    p.op(_LD_B_IND, _LL + 2 + 6)
    p.op(_ST, _SCRATCH_NEXT)
    _add_to_x(p, 2 + 40)
    for depth in range(0 if fixed_only else _IPV6_EXTENSIONS):
        p.op(_LD_MEM, _SCRATCH_NEXT)
        p.jump(_JEQ, _FRAGMENT, f"fragment{depth}")
        for extension in (_HOP_BY_HOP, _ROUTING, _DEST_OPTIONS):
            p.jump(_JEQ, extension, f"extension{depth}")
        p.goto("layer4")
        p.label(f"fragment{depth}")
        p.op(_LD_H_IND, _LL + 2)
        p.jump(_JSET, 0xFFF8, f"later{depth}")
        p.op(_LD_B_IND, _LL)
        p.op(_ST, _SCRATCH_NEXT)
        _add_to_x(p, 8)
        p.goto(f"next{depth}")
        p.label(f"later{depth}")
        p.op(_LD_B_IND, _LL)
        p.goto("fragment")
        p.label(f"extension{depth}")
        p.op(_LD_B_IND, _LL)
        p.op(_ST, _SCRATCH_NEXT)
        p.op(_LD_B_IND, _LL + 1)
        p.op(_ADD_K, 1)
        p.op(_LSH_K, 3)
        p.op(_ADD_X)
        p.op(_TAX)
        p.label(f"next{depth}")
    p.op(_LD_MEM, _SCRATCH_NEXT)
    p.goto("layer4")


def _advance_ipv4(p: Program) -> None:
    """Leave the protocol in A and the end of the header in X."""
    p.op(_LD_B_IND, _LL + 2 + 9)
    p.op(_ST, _SCRATCH_PROTOCOL)
    p.op(_LD_MEM, _SCRATCH_NEXT)
    p.op(_ADD_K, 2)
    p.op(_ADD_X)
    p.op(_TAX)
    p.op(_LD_MEM, _SCRATCH_PROTOCOL)


def _add_to_x(p: Program, value: int) -> None:
    p.op(_TXA)
    p.op(_ADD_K, value)
    p.op(_TAX)
