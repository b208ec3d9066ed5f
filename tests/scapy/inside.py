"""What a hostile container sends: every layer fuzzed, what breaks reassembly, what pretends to be somebody else."""

import random

from common import GATEWAY_MAC, Wire, arguments, finish, fuzz
from scapy.all import (
    ARP,
    BOOTP,
    DHCP,
    ICMP,
    IP,
    TCP,
    UDP,
    DHCP6_Solicit,
    Dot1AD,
    Dot1Q,
    Ether,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    IPOption_LSRR,
    IPOption_RR,
    IPOption_SSRR,
    IPOption_Timestamp,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RandIP,
    RandIP6,
    RandMAC,
    Raw,
)

told = arguments()
wire = Wire(told["interface"])
own, own6, mac = told["own"], told["own6"], told["mac"]
peer, peer6, peer_mac = told["peer"], told["peer6"], told["peer_mac"]
client, client6 = told["client"], told["client6"]
flow_port, port = told["flow_port"], told["port"]
many = told["count"]
LOAD = Raw(b"hostile")


def out(packet, destination=GATEWAY_MAC):
    return Ether(src=mac, dst=destination) / packet


def in_both(kind, count, make):
    """The same of IPv4 and of IPv6: `make` gets the header, and which it is."""
    wire.send_some(kind + " v4", count, lambda: out(make(IP(src=own, dst=peer), 4)))
    wire.send_some(kind + " v6", count, lambda: out(make(IPv6(src=own6, dst=peer6), 6)))


# Fuzzed, layer by layer: with the own addresses, so that what is wrong is further in; then everything.
in_both("fuzzed tcp", many, lambda ip, _: ip / fuzz(TCP()))
in_both("fuzzed udp", many, lambda ip, _: ip / fuzz(UDP()) / LOAD)
in_both("fuzzed icmp", many, lambda ip, six: ip / fuzz(ICMP() if six == 4 else ICMPv6EchoRequest()))
wire.send_some("fuzzed ip", many, lambda: out(fuzz(IP(src=own, dst=peer)) / fuzz(TCP())))
wire.send_some("fuzzed ip whole", many, lambda: out(fuzz(IP()) / fuzz(UDP())))
wire.send_some("fuzzed ipv6", many, lambda: out(fuzz(IPv6(src=own6, dst=peer6)) / fuzz(UDP())))
wire.send_some("fuzzed ipv6 whole", many, lambda: out(fuzz(IPv6()) / fuzz(TCP())))
wire.send_some("fuzzed arp", many, lambda: out(fuzz(ARP()), "ff:ff:ff:ff:ff:ff"))
for kind in (ICMPv6ND_NS, ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6ND_Redirect):
    wire.send_some("fuzzed nd", many // 4, lambda: out(IPv6(src=own6, dst=peer6, hlim=255) / fuzz(kind())))
wire.send_some("fuzzed ethernet", many, lambda: Ether(src=RandMAC(), dst=RandMAC(), type=random.randrange(65536)) / LOAD)
wire.send_some("fuzzed type", many, lambda: Ether(src=mac, dst=GATEWAY_MAC, type=random.randrange(0x600, 0x800)) / LOAD)
wire.send_some("noise", many, lambda: Raw(random.randbytes(random.randrange(14, 300))))
whole = bytes(out(IP(src=own, dst=peer) / TCP(dport=port) / LOAD))
wire.send_some("cut short", many, lambda: Raw(whole[: random.randrange(14, len(whole))]))

# Fragments: overlapping (teardrop), tiny, beyond 65,535 bytes (ping of death), and without end.
for ident in range(many // 4):
    wire.send("teardrop v4", out(IP(src=own, dst=peer, id=ident, flags="MF") / UDP(sport=9, dport=port) / Raw(b"a" * 32)))
    wire.send("teardrop v4", out(IP(src=own, dst=peer, id=ident, frag=1, proto=17) / Raw(b"b" * 8)))
    wire.send("tiny v4", out(IP(src=own, dst=peer, id=1000 + ident, flags="MF", proto=6) / Raw(bytes(TCP(dport=port))[:8])))
    wire.send("tiny v4", out(IP(src=own, dst=peer, id=1000 + ident, frag=1, proto=6) / Raw(bytes(TCP(dport=port))[8:])))
    wire.send("ping of death v4", out(IP(src=own, dst=peer, id=2000 + ident, frag=8189, proto=1) / Raw(b"x" * 1400)))
    wire.send("without end v4", out(IP(src=own, dst=peer, id=3000 + ident, frag=random.randrange(1, 8000), flags="MF", proto=17) / LOAD))
    v6 = IPv6(src=own6, dst=peer6)
    wire.send("teardrop v6", out(v6 / IPv6ExtHdrFragment(id=ident, m=1, nh=17) / UDP(sport=9, dport=port) / Raw(b"a" * 32)))
    wire.send("teardrop v6", out(v6 / IPv6ExtHdrFragment(id=ident, offset=1, nh=17) / Raw(b"b" * 8)))
    wire.send("tiny v6", out(v6 / IPv6ExtHdrFragment(id=1000 + ident, m=1, nh=6) / Raw(bytes(TCP(dport=port))[:8])))
    wire.send("ping of death v6", out(v6 / IPv6ExtHdrFragment(id=2000 + ident, offset=8189, nh=58) / Raw(b"x" * 1300)))
    wire.send("atomic v6", out(v6 / IPv6ExtHdrFragment(id=3000 + ident, nh=17) / UDP(dport=port) / LOAD))

# Flags that no stack sends, and a destination that is the source.
for flags in ("", "F", "S", "SF", "FPU", "SR", "SFRPAU", "A", "RA"):
    in_both("scan", many // 8, lambda ip, _: ip / TCP(sport=random.randrange(65536), dport=random.randrange(1, 1024), flags=flags))
for victim, victim6 in ((own, own6), (peer, peer6)):
    wire.send_some("land v4", many // 4, lambda: out(IP(src=victim, dst=victim) / TCP(sport=port, dport=port, flags="S")))
    wire.send_some("land v6", many // 4, lambda: out(IPv6(src=victim6, dst=victim6) / TCP(sport=port, dport=port, flags="S")))

# Ways that the sender chooses: source routes, chains of headers, routing header 0.
for option in (IPOption_LSRR, IPOption_SSRR, IPOption_RR):
    wire.send_some("options", many // 4, lambda: out(IP(src=own, dst=peer, options=[option(routers=[client, peer])]) / UDP(dport=port) / LOAD))
wire.send_some("options", many // 4, lambda: out(IP(src=own, dst=peer, options=[IPOption_Timestamp()]) / UDP(dport=port)))
v6 = IPv6(src=own6, dst=peer6)
wire.send_some("routing header", many // 2, lambda: out(v6 / IPv6ExtHdrRouting(type=0, addresses=[client6, peer6]) / UDP(dport=port)))
wire.send_some("routing header", many // 2, lambda: out(v6 / IPv6ExtHdrRouting(type=random.randrange(256), addresses=[client6]) / UDP(dport=port)))
for links in (1, 3, 4, 5, 12):
    chain = v6 / IPv6ExtHdrHopByHop(options=[PadN()])
    for _ in range(links - 1):
        chain = chain / IPv6ExtHdrDestOpt(options=[PadN()])
    wire.send_some("chain", many // 8, lambda: out(chain / UDP(dport=port) / LOAD))
    wire.send_some("chain", many // 8, lambda: out(chain / IPv6ExtHdrRouting(type=0, addresses=[client6]) / UDP(dport=port)))
    wire.send_some("chain", many // 8, lambda: out(chain / IPv6ExtHdrFragment(m=1, id=links) / Raw(b"12345678")))

# In the name of others.
names = [(peer, peer6), (client, client6), (told["gateway"], told["gateway6"]), ("127.0.0.1", "::1"), ("0.0.0.0", "::")]
for name, name6 in names:
    wire.send_some("spoofed v4", many // 4, lambda: out(IP(src=name, dst=peer) / TCP(sport=flow_port, dport=port, flags="R", seq=random.randrange(2**32))))
    wire.send_some("spoofed v6", many // 4, lambda: out(IPv6(src=name6, dst=peer6) / UDP(dport=port) / LOAD))
wire.send_some("spoofed v4", many, lambda: out(IP(src=RandIP(), dst=peer) / TCP(dport=port, flags="S")))
wire.send_some("spoofed v6", many, lambda: out(IPv6(src=RandIP6(), dst=peer6) / TCP(dport=port, flags="S")))
wire.send_some("spoofed mac", many // 2, lambda: Ether(src=peer_mac, dst=GATEWAY_MAC) / IP(src=own, dst=peer) / UDP() / LOAD)
wire.send_some("past the gateway", many // 2, lambda: out(IP(src=own, dst=peer) / UDP(dport=port) / LOAD, peer_mac))
wire.send_some("past the gateway", many // 2, lambda: out(IPv6(src=own6, dst=peer6) / UDP(dport=port) / LOAD, peer_mac))

# Tags.
for inner in (IP(src=own, dst=peer) / UDP(dport=port) / LOAD, IPv6(src=own6, dst=peer6) / UDP(dport=port) / LOAD):
    for to in (GATEWAY_MAC, peer_mac):
        wire.send_some("tagged", many // 8, lambda: out(Dot1Q(vlan=random.randrange(4096)) / inner, to))
        wire.send_some("tagged twice", many // 8, lambda: out(Dot1AD(vlan=5) / Dot1Q(vlan=random.randrange(4096)) / inner, to))
        wire.send_some("tagged twice", many // 8, lambda: out(Dot1Q(vlan=0) / Dot1Q(vlan=0) / inner, to))

# Whoever leads others astray: neighbours, routers, redirects, servers of addresses.
everybody, all_nodes = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
for operation in (1, 2):
    for to in (everybody, peer_mac, GATEWAY_MAC):
        wire.send_some("arp", many // 8, lambda: out(ARP(op=operation, hwsrc=mac, psrc=told["gateway"], hwdst=peer_mac, pdst=peer), to))
        wire.send_some("arp", many // 8, lambda: out(ARP(op=operation, hwsrc=mac, psrc=client, hwdst=peer_mac, pdst=peer), to))
wire.send_some("arp asked", many // 8, lambda: out(ARP(op=1, hwsrc=mac, psrc=own, pdst=peer), everybody))
wire.send_some("nd in another's name", many // 4, lambda: out(IPv6(src=peer6, dst=peer6, hlim=255) / ICMPv6ND_NS(tgt=client6) / ICMPv6NDOptSrcLLAddr(lladdr=mac)))
wire.send_some("nd asked", many // 8, lambda: out(IPv6(src=own6, dst=peer6, hlim=255) / ICMPv6ND_NS(tgt=peer6) / ICMPv6NDOptSrcLLAddr(lladdr=mac)))
for source, to, to_mac in ((own6, "ff02::1", all_nodes), ("fe80::1", "ff02::1", all_nodes), (told["gateway6"], peer6, peer_mac), (own6, peer6, GATEWAY_MAC)):
    v6 = IPv6(src=source, dst=to, hlim=255)
    wire.send_some("router", many // 8, lambda: out(v6 / ICMPv6ND_RA() / ICMPv6NDOptSrcLLAddr(lladdr=mac) / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::"), to_mac))
    wire.send_some("neighbour", many // 8, lambda: out(v6 / ICMPv6ND_NA(tgt=told["gateway6"], O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac), to_mac))
    wire.send_some("redirect v6", many // 8, lambda: out(v6 / ICMPv6ND_Redirect(tgt=own6, dst=client6), to_mac))
# As peer and client would quote each other: a conversation that is none of the sender's.
foreign = IP(src=peer, dst=client) / TCP(sport=port, dport=flow_port, seq=1)
foreign6 = IPv6(src=peer6, dst=client6) / TCP(sport=port, dport=flow_port, seq=1)
for kind, code in ((3, 0), (3, 1), (3, 3), (3, 4), (4, 0), (5, 0), (5, 1), (9, 0), (10, 0), (11, 0), (12, 0)):
    wire.send_some("forged error v4", many // 8, lambda: out(IP(src=own, dst=peer) / ICMP(type=kind, code=code, gw=own) / foreign))
    wire.send_some("forged error v4", many // 8, lambda: out(IP(src=told["gateway"], dst=peer) / ICMP(type=kind, code=code, gw=own) / foreign))
for error in (ICMPv6DestUnreach(), ICMPv6PacketTooBig(mtu=1280)):
    wire.send_some("forged error v6", many // 8, lambda: out(IPv6(src=own6, dst=peer6) / error / foreign6))
    wire.send_some("forged error v6", many // 8, lambda: out(IPv6(src=told["gateway6"], dst=peer6) / error / foreign6))
lease = BOOTP(op=2, yiaddr="10.66.0.2", siaddr=own, chaddr=b"\x02" * 16)
wire.send_some("dhcp", many // 4, lambda: out(IP(src=own, dst="255.255.255.255") / UDP(sport=67, dport=68) / lease / DHCP(options=[("message-type", "offer"), (225, b"x" * 255), (226, b"x" * 255), "end"]), everybody))
wire.send_some("dhcp", many // 4, lambda: out(IP(src=own, dst=peer) / UDP(sport=67, dport=68) / lease / Raw(b"\x63\x82\x53\x63" + b"\xff" * 900)))
wire.send_some("dhcp", many // 4, lambda: out(IPv6(src=own6, dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit() / Raw(b"\0\1\xff\xff" * 100), "33:33:00:01:00:02"))

finish(wire)
