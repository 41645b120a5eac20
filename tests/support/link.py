"""A wire between two networks that delays, loses and cuts: netem for kernels that have none.

Two TUN devices, one in this network and one in a namespace of its own, and a process between them
that reads each packet of the one and writes it to the other, later or never. It needs root.
"""

import contextlib
import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

HERE, THERE = "10.77.0.1", "10.77.0.2"  # over the wire
NEAR, FAR = "10.78.0.1", "10.78.0.2"  # beside it, and always good: how tests reach the other end

_NAMESPACE = "uc-far"
_CARDS = ("ucwire0", "ucwire1")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_MAX = 1 << 16


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@dataclass
class Wire:
    """`inside` is put before a command that is to run at the other end."""

    process: "subprocess.Popen[bytes]"
    inside: tuple[str, ...] = ("ip", "netns", "exec", _NAMESPACE)

    def set(self, delay_ms: float = 0, loss: float = 0, back: float | None = None) -> None:
        """For each way; `loss` is the share of packets that do not arrive, 1 cuts. `back`: that of
        those from the other end, where it differs.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        back = loss if back is None else back
        self.process.stdin.write(f"{delay_ms} {loss} {back}\n".encode())
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"set\n"

    def cut(self) -> None:
        self.set(loss=1)


@contextlib.contextmanager
def wire(seed: int = 1) -> Iterator[Wire]:
    """Good at first."""
    subprocess.run(("ip", "netns", "del", _NAMESPACE), capture_output=True, check=False)
    run("ip", "netns", "add", _NAMESPACE)
    command = [sys.executable, "-m", "tests.support.link", str(seed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    made = Wire(process)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        run("ip", "link", "add", "ucside0", "type", "veth", "peer", "name", "ucside1")
        for card in (_CARDS[1], "ucside1"):
            run("ip", "link", "set", card, "netns", _NAMESPACE)
        for card, address in ((_CARDS[0], HERE), ("ucside0", NEAR)):
            _bring_up(card, address)
        for card, address in ((_CARDS[1], THERE), ("ucside1", FAR)):
            _bring_up(card, address, *made.inside)
        run(*made.inside, "ip", "link", "set", "lo", "up")
        yield made
    finally:
        process.kill()
        process.communicate()
        subprocess.run(("ip", "link", "del", "ucside0"), capture_output=True, check=False)
        run("ip", "netns", "del", _NAMESPACE)


def _bring_up(card: str, address: str, *inside: str) -> None:
    run(*inside, "ip", "addr", "add", f"{address}/24", "dev", card)
    run(*inside, "ip", "link", "set", card, "up")


# the process between


def _open_card(name: str) -> int:
    card = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    asked = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(card, _TUNSETIFF, asked)
    return card


def _carry(seed: int) -> None:
    rng = random.Random(seed)
    near, far = (_open_card(name) for name in _CARDS)
    other = {near: far, far: near}
    delay, loss = 0.0, {near: 0.0, far: 0.0}
    due: list[tuple[float, int, int, bytes]] = []  # when, order, to where, packet
    count = 0
    selector = selectors.DefaultSelector()
    for descriptor in (near, far, 0):
        selector.register(descriptor, selectors.EVENT_READ)
    print("open", flush=True)
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        for key, _ in selector.select(wait):
            if key.fd == 0:
                line = os.read(0, 1000)
                if not line:
                    return
                told = [float(text) for text in line.split()]
                delay, loss = told[0] / 1000, {near: told[1], far: told[2]}
                if min(loss.values()) == 1:
                    due.clear()  # what is on its way is lost too
                print("set", flush=True)
                continue
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet = os.read(key.fd, _PACKET_MAX)
                    if rng.random() >= loss[key.fd]:
                        count += 1
                        heapq.heappush(
                            due, (time.monotonic() + delay, count, other[key.fd], packet)
                        )
        while due and due[0][0] <= time.monotonic():
            _, _, card, packet = heapq.heappop(due)
            with contextlib.suppress(OSError):  # a full queue: lost, as on any wire
                os.write(card, packet)


if __name__ == "__main__":
    _carry(int(sys.argv[1]))
