"""What hostile hosts send to a published port from outside: a flood of beginnings from everywhere, or everything else that is odd."""

import random

from common import Wire, arguments, finish, fuzz
from scapy.all import (
    ICMP,
    IP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Ether,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPOption_LSRR,
    IPOption_SSRR,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
    PadN,
    RandIP,
    RandIP6,
    Raw,
)

told = arguments()
wire = Wire(told["interface"])
host, host6, port = told["host"], told["host6"], told["port"]
inner, inner6 = told["inner"], told["inner6"]
many = told["count"]
LOAD = Raw(b"hostile")


def in_(packet):
    return Ether(src=told["mac"], dst=told["host_mac"]) / packet


def anybody():
    """Of a range for benchmarks, beside the stand-ins, where nobody answers."""
    return str(RandIP("198.19.0.0/16"))


def anybody6():
    return "2001:db8:5::%x:%x" % (random.randrange(65536), random.randrange(1, 65536))


def begins():
    return TCP(sport=random.randrange(1024, 65536), dport=port, flags="S", seq=random.randrange(2**32))


if told["what"] == "flood":
    wire.send_some("flood v4", many, lambda: in_(IP(src=anybody(), dst=host) / begins()))
    wire.send_some("flood v6", many, lambda: in_(IPv6(src=anybody6(), dst=host6) / begins()))
    finish(wire)
    raise SystemExit

if told["what"] == "flood for a while":
    frames = []
    for _ in range(many):
        frames.append(("flood v4", in_(IP(src=anybody(), dst=host) / begins())))
        frames.append(("flood v6", in_(IPv6(src=anybody6(), dst=host6) / begins())))
    wire.send_for(told["seconds"], told["per_second"], frames)
    finish(wire)
    raise SystemExit

for source, source6 in ((anybody, anybody6), (lambda: inner, lambda: inner6), (lambda: host, lambda: host6)):

    def v4(**fields):
        return IP(src=source(), dst=host, **fields)

    def v6():
        return IPv6(src=source6(), dst=host6)

    for header in (v4, v6):
        wire.send_some("fuzzed tcp", many, lambda: in_(header() / fuzz(TCP(dport=port))))
        wire.send_some("fuzzed udp", many // 2, lambda: in_(header() / fuzz(UDP(dport=port)) / LOAD))
        wire.send_some("fuzzed icmp", many // 2, lambda: in_(header() / fuzz(ICMP() if header is v4 else ICMPv6EchoRequest())))
        for flags in ("", "F", "SF", "FPU", "SR", "SFRPAU", "A", "RA"):
            wire.send_some("scan", many // 8, lambda: in_(header() / TCP(sport=random.randrange(65536), dport=port, flags=flags)))
        wire.send_some("tagged", many // 4, lambda: in_(Dot1Q(vlan=7) / header() / begins()))
        wire.send_some("tagged twice", many // 4, lambda: in_(Dot1AD(vlan=5) / Dot1Q(vlan=7) / header() / begins()))
    wire.send_some("land", many // 4, lambda: in_(IP(src=host, dst=host) / TCP(sport=port, dport=port, flags="S")))
    wire.send_some("land", many // 4, lambda: in_(IPv6(src=host6, dst=host6) / TCP(sport=port, dport=port, flags="S")))
    for ident in range(many // 4):
        wire.send("fragments", in_(v4(id=ident, flags="MF", proto=6) / Raw(bytes(begins())[:8])))
        wire.send("fragments", in_(v4(id=ident, frag=1, proto=6) / Raw(bytes(begins())[8:])))
        wire.send("fragments", in_(v4(id=1000 + ident, flags="MF") / begins() / Raw(b"a" * 4)))
        wire.send("fragments", in_(v4(id=1000 + ident, frag=1, proto=6) / Raw(b"b" * 16)))
        wire.send("fragments", in_(v4(id=2000 + ident, frag=8189, proto=1) / Raw(b"x" * 1400)))
        wire.send("fragments", in_(v6() / IPv6ExtHdrFragment(id=ident, m=1, nh=6) / Raw(bytes(begins())[:8])))
        wire.send("fragments", in_(v6() / IPv6ExtHdrFragment(id=ident, offset=1, nh=6) / Raw(b"b" * 16)))
    for option in (IPOption_LSRR, IPOption_SSRR):
        wire.send_some("options", many // 4, lambda: in_(v4(options=[option(routers=[inner])]) / begins()))
    wire.send_some("routing header", many // 4, lambda: in_(v6() / IPv6ExtHdrRouting(type=0, addresses=[inner6]) / begins()))
    wire.send_some("chain", many // 4, lambda: in_(v6() / IPv6ExtHdrDestOpt(options=[PadN()]) / begins()))
    # Straight to the container's own address, and errors about conversations that there are not.
    wire.send_some("past the host", many // 4, lambda: in_(IP(src=source(), dst=inner) / TCP(dport=80, flags="S")))
    wire.send_some("past the host", many // 4, lambda: in_(IPv6(src=source6(), dst=inner6) / TCP(dport=80, flags="S")))
    for kind, code in ((3, 1), (3, 4), (5, 1), (11, 0)):
        quoted = IP(src=host, dst=anybody()) / TCP(sport=port, dport=random.randrange(65536), seq=1)
        wire.send_some("forged error", many // 8, lambda: in_(v4() / ICMP(type=kind, code=code, gw=host) / quoted))
        about_inner = IP(src=inner, dst=anybody()) / TCP(sport=80, dport=random.randrange(65536), seq=1)
        wire.send_some("forged error", many // 8, lambda: in_(v4() / ICMP(type=kind, code=code, gw=host) / about_inner))
    quoted6 = IPv6(src=host6, dst=anybody6()) / TCP(sport=port, dport=9, seq=1)
    wire.send_some("forged error", many // 4, lambda: in_(v6() / ICMPv6DestUnreach() / quoted6))

finish(wire)
