"""docs/guards.md, made from the table: promise, test, removal."""

from tests.guards.table import Guard

HEAD = """\
# Guards

A test of a threat counts only if it fails once the guard is gone. Each row is a promise, the tests
that watch it, and the place in `src/undercroft` where its guard was taken out to see them fail;
the exact removals are in `tests/guards/*.toml`.

`make guards` sees that all of these tests pass, then takes every guard out in turn, of a copy of
the source, runs the tests of its row and expects each of them to fail. `python -m tests.guards
HTTP-01 tokens.py` does so for some, `-k 4` four at a time. A removal is `caught`; or it `survived`,
which means a test that is too weak; or it is `stale`, because the source has moved on and the table
has to follow; or an `error`, because the tests broke or hung instead of failing. `make test` checks
that no removal is stale and that this page is the table's: `python -m tests.guards --page >
docs/guards.md` writes it.

| threat | promise | tests | removed in |
|---|---|---|---|
"""


def page(table: list[Guard]) -> str:
    """The page: one row for each guard, in the order of the threats."""
    return HEAD + "".join(map(_row, sorted(table, key=_order)))


def _order(guard: Guard) -> tuple[str, int]:
    surface, _, number = guard.threat.partition("-")
    return surface, int(number)


def _row(guard: Guard) -> str:
    tests = "<br>".join(f"`{test}`" for test in guard.tests)
    return f"| {guard.threat} | {guard.promise} | {tests} | `{guard.file}` |\n"
