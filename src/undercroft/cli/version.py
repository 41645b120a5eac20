"""`undercroft version`."""

from undercroft import __version__


def version() -> int:
    print(f"Undercroft v{__version__}")
    return 0
