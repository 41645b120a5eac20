"""JSON whose numbers stay as they were written: 1.50, 1e3 and 23-digit integers (convention 24)."""

import json
from typing import Any


class Number(str):
    """A number's text."""

    __slots__ = ()


def decode(text: str | bytes) -> Any:
    """Raises ValueError."""
    return json.loads(text, parse_int=Number, parse_float=Number)


def encode(value: Any, indent: str = "") -> str:
    """Two spaces a level; objects keep their order."""
    deeper = indent + "  "
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{json.dumps(k)}: {encode(v, deeper)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(deeper + encode(v, deeper) for v in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
