"""What a seal does to the copies of its keys in a process's memory."""

import os
import subprocess
import sys

SCRIPT = """
import os
from undercroft.barrier.scrub import scrub

secret = os.urandom(32)
kept = bytearray(b"before " + secret + b" after")
large = bytearray(9 << 20)
for at in (0, (4 << 20) - 16, (8 << 20) - 1, len(large) - 32):  # also across two readings
    large[at:at + 32] = secret
other = os.urandom(32)
neighbour = bytes(other)
scrub([])
assert secret in kept
scrub([secret])
assert kept == b"before " + bytes(32) + b" after"
assert not any(large)
assert secret == bytes(32)
assert neighbour == other
print("done")
"""


def test_scrub_overwrites_every_copy_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env={**os.environ}
    )
    assert done.stdout == "done\n", done.stderr
