"""Frames that scapy makes, sent as they are, in numbers that do not depend on anything but the seed. Refuses to wait for answers."""

import json
import random
import socket
import sys
import time

from scapy.all import Ether, Raw, fuzz  # noqa: F401

GATEWAY_MAC = "02:cc:00:00:00:01"


class Wire:
    """A packet socket on one interface. Counts by class what the kernel took, and what it would not."""

    def __init__(self, interface):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind((interface, 0))
        self.taken = {}
        self.refused = 0

    def send(self, kind, frame):
        try:
            data = bytes(frame)
        except Exception:
            # Some fuzzed fields have no bytes; another draw has.
            return False
        try:
            self.socket.send(data)
        except OSError:
            # Longer than the interface takes, or shorter than a header.
            self.refused += 1
            return False
        self.taken[kind] = self.taken.get(kind, 0) + 1
        return True

    def send_some(self, kind, count, make):
        """Up to `count` frames; a draw that cannot be sent is not drawn again."""
        for _ in range(count):
            self.send(kind, make())


    def send_for(self, seconds, per_second, frames):
        """The same frames over and over, at a rate."""
        frames = [(kind, bytes(frame)) for kind, frame in frames]
        begin, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - begin) < seconds:
            while sent < elapsed * per_second:
                self.send(*frames[sent % len(frames)])
                sent += 1
            time.sleep(0.002)


def arguments():
    """One JSON object: interface, seed, and whatever the caller tells of addresses."""
    told = json.loads(sys.argv[1])
    random.seed(told["seed"])
    return told


def finish(wire):
    json.dump({"taken": wire.taken, "refused": wire.refused}, sys.stdout)
