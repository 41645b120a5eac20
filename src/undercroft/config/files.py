"""From `-config` arguments to blocks of settings: which files, and what stands in them, with lines.

Knows the shape of a file (stanzas, labels) but no setting.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from undercroft.errors import InvalidRequest
from undercroft.hcl import Body, Item, Value, parse


class ConfigError(InvalidRequest):
    """The configuration cannot be used. The message has a line for each problem."""


@dataclass(frozen=True)
class Place:
    """Where something stands."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Block:
    """A stanza: `listener "tcp" { … }` has the labels `("tcp",)`."""

    name: str
    labels: tuple[str, ...]
    body: Body
    place: Place


def find_files(paths: tuple[str, ...]) -> list[Path]:
    """The files of `-config` arguments: a directory stands for its .hcl and .json files, sorted.

    What editors leave behind is passed over. Raises ConfigError for what is not there.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ConfigError(f"{path}: no such file or directory", hint="see the -config argument")
        if not path.is_dir():
            files.append(path)
            continue
        inside = [file for file in sorted(path.iterdir()) if _is_config(file)]
        if not inside:
            raise ConfigError(f"{path}: no .hcl or .json file in this directory")
        files += inside
    return files


def _is_config(file: Path) -> bool:
    left_behind = file.name.startswith((".", "#")) or file.name.endswith("~")
    return file.suffix in (".hcl", ".json") and not left_behind and file.is_file()


def read_file(file: Path) -> Body:
    """Raises ConfigError, or HclError with the place of a mistake."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: cannot be read: not UTF-8 text") from None
    return parse(text, source=str(file))


def blocks(item: Item, file: str, labels: int) -> Iterator[Block]:
    """The stanzas of an item, in each form that HCL and JSON have for them.

    `labels` is how many the stanza may have; JSON nests them: `{"audit": {"file": {"main": {}}}}`.
    """
    value: Value = item.value
    if len(item.keys) > labels + 1:  # JSON has flattened an object with one object in it
        value = Body((Item(item.keys[labels + 1 :], value, item.line),))
    have = item.keys[1 : labels + 1]
    yield from _blocks(item.keys[0], have, value, Place(file, item.line), labels)


def _blocks(
    name: str, have: tuple[str, ...], value: Value, place: Place, labels: int
) -> Iterator[Block]:
    if isinstance(value, list):
        for element in value:
            yield from _blocks(name, have, element, place, labels)
    elif not isinstance(value, Body):
        raise ConfigError(f"{place}: {name} must be a block: {name} {{ … }}")
    elif len(have) < labels and value.items and all(map(_is_nested, value.items)):
        for item in value.items:
            deeper = Place(place.file, item.line)
            yield from _blocks(name, have + item.keys, item.value, deeper, labels)
    else:
        yield Block(name, have, value, place)


def _is_nested(item: Item) -> bool:
    value = item.value
    return isinstance(value, Body) or (
        isinstance(value, list) and bool(value) and all(isinstance(v, Body) for v in value)
    )
