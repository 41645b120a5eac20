"""The tables of routes in docs/compatibility.md, written from the engines' route tables.

python -m undercroft.engines.reference docs/compatibility.md
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from undercroft.engines import kv
from undercroft.engines.base import Engine
from undercroft.engines.kv import v1, v2
from undercroft.engines.registry import ENGINES
from undercroft.request.model import Operation

_METHODS: Final = {
    Operation.READ: "GET",
    Operation.CREATE: "POST",
    Operation.UPDATE: "POST",
    Operation.PATCH: "PATCH",
    Operation.DELETE: "DELETE",
    Operation.LIST: "LIST",
    Operation.SCAN: "SCAN",
}
_PLACES: Final = {"system": "sys/", "token": "auth/token/", "userpass": "auth/userpass/"}


def tables() -> dict[str, str]:
    """Markdown tables by name: an engine's type, and `kv-v1`, `kv-v2` for the versions of KV."""
    engines = {name: engine for name, engine in ENGINES.items() if engine is not kv.ENGINE}
    engines |= {"kv-v1": v1.ENGINE, "kv-v2": v2.ENGINE}
    return {name: _table(engine, _PLACES.get(name, "")) for name, engine in engines.items()}


def fill(text: str) -> str:
    """The page with each `<!-- routes:NAME -->` … `<!-- end -->` holding its table."""
    made = tables()
    return re.sub(
        r"(<!-- routes:([\w-]+) -->\n).*?(<!-- end -->)",
        lambda found: found[1] + made[found[2]] + found[3],
        text,
        flags=re.DOTALL,
    )


def _table(engine: Engine, place: str) -> str:
    rows = sorted(
        f"| `{place}{route.pattern}` | {_methods(route.handlers)} |" for route in engine.routes
    )
    return "\n".join(("| path | methods |", "|---|---|", *rows, ""))


def _methods(operations: Iterable[Operation]) -> str:
    held = {_METHODS[operation] for operation in operations if operation in _METHODS}
    return ", ".join(method for method in dict.fromkeys(_METHODS.values()) if method in held)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(fill(page.read_text()))
