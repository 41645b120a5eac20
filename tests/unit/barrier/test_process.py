"""What the kernel is asked for, in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@linux
def test_a_hardened_process_dumps_no_core_and_is_not_dumpable() -> None:
    done = run("""
        import ctypes, resource
        from undercroft.barrier.process import harden
        harden()
        PR_GET_DUMPABLE = 3
        print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(PR_GET_DUMPABLE))
    """)
    assert done.stdout.strip() == "(0, 0) 0", done.stderr


@linux
def test_a_child_ends_with_its_parent_even_when_that_is_killed() -> None:
    """The pipe's writing end is the grandchild's: it closes when that has gone."""
    done = run("""
        import os, signal, time
        from undercroft.barrier.process import die_with_parent
        reader, writer = os.pipe()
        ready_reader, ready_writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                die_with_parent()
                os.write(ready_writer, b"!")
                signal.pause()
            signal.pause()
        os.close(writer)
        os.read(ready_reader, 1)
        os.kill(middle, signal.SIGKILL)
        print(os.read(reader, 1))
    """)
    assert done.stdout.strip() == "b''", done.stderr


@linux
def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    done = run("""
        import os
        from undercroft.barrier.process import die_with_parent
        die_with_parent(os.getppid() + 1_000_000)
        print("still here")
    """)
    assert done.stdout == ""
    assert done.returncode == -signal.SIGKILL
