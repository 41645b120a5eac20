"""What holds for every test, and fixtures that any may ask for."""

import signal

from tests.support.oracle import oracle

__all__ = ["oracle"]

# A shell that starts `make test &` has it ignore ctrl-c, and so would every command under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
