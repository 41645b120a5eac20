"""HCL 1, the language of policies and configuration files, and its JSON form.

`parse` turns text into a tree of plain values with line numbers and knows nothing of what they
mean. Both forms give the same shape: `listener "tcp" { … }` and `{"listener": {"tcp": {…}}}` are an
item with the keys `("listener", "tcp")`. HCL 2 is another language: no expressions, no functions.

Text comes from callers who may have sent the wrong file, so errors name a place and never quote
what stands there (threat AUD-07), and size and depth are bounded.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from undercroft.errors import InvalidRequest

TEXT_BYTES_MAX: Final = 1 << 20  # a thousand times a long policy; etcd takes 1.5 MiB, Consul 0.5
DEPTH_MAX: Final = 64

Value: TypeAlias = "str | int | float | bool | list[Value] | Body | None"


@dataclass(frozen=True, slots=True)
class Item:
    """`a = 1` has the keys `("a",)`; `path "x" { … }` has `("path", "x")` and a Body."""

    keys: tuple[str, ...]
    value: Value = field(repr=False)  # seal keys and passwords stand in configuration files
    line: int


@dataclass(frozen=True, slots=True)
class Body:
    """The items between two braces, or of the whole text, in their order, repeated keys and all."""

    items: tuple[Item, ...]

    def find(self, name: str) -> Iterator[Item]:
        """Every item whose first key is `name`."""
        return (item for item in self.items if item.keys[0] == name)


class HclError(InvalidRequest):
    """The text is not HCL or JSON. Says where and why, never what stands there."""

    def __init__(self, reason: str, line: int, column: int, source: str = "") -> None:
        super().__init__(f"{source + ': ' if source else ''}At {line}:{column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column
        self.source = source


def parse(text: str, *, source: str = "") -> Body:
    """Parse HCL, or JSON when the first character is a brace. Raises HclError.

    `source` (a file's name) goes in front of error messages.
    """
    if text.lstrip().startswith("{"):
        return parse_json(text, source=source)
    return _Hcl(text, source).document()


def parse_json(text: str, *, source: str = "") -> Body:
    """Parse the JSON form into what the same HCL would give. Raises HclError."""
    return _flatten(_Json(text, source).document())


def plain(value: Value) -> object:
    """The value with every Body as a dict, block labels nested; a repeated key keeps the last."""
    if isinstance(value, list):
        return [plain(element) for element in value]
    if not isinstance(value, Body):
        return value
    result: dict[str, object] = {}
    for item in value.items:
        inner = result
        for key in item.keys[:-1]:
            deeper = inner.setdefault(key, {})
            if not isinstance(deeper, dict):
                deeper = inner[key] = {}
            inner = deeper
        inner[item.keys[-1]] = plain(item.value)
    return result


_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*|//[^\n]*|/\*(?s:.*?)\*/)*")
_IDENT: Final = re.compile(r"[^\W\d][\w.\-]*")
_NUMBER: Final = re.compile(r"-?0[xX][0-9A-Fa-f]+|-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+", re.ASCII)
_SIMPLE_STRING: Final = re.compile(r'"([^"\\\n$]*)"')
_HEREDOC: Final = re.compile(r"<<(-?)([\w]+)\r?\n")
_ESCAPE: Final = re.compile(
    r"\\(?:([abfnrtv\\\"])|([0-7]{3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))"
)
_ESCAPED: Final = dict(zip('abfnrtv\\"', '\a\b\f\n\r\t\v\\"', strict=True))
_INT64: Final = range(-(2**63), 2**63)


class _Text:
    """A place in a text: what both parsers share."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.at = 0
        self.depth = 0
        self._line, self._line_at = 1, 0  # the line of a place that was asked for before
        try:
            size = len(text) if len(text) > TEXT_BYTES_MAX else len(text.encode())
        except UnicodeEncodeError:
            raise self.error("not Unicode text") from None
        if size > TEXT_BYTES_MAX:
            raise self.error(f"the text is longer than {TEXT_BYTES_MAX} bytes")
        if "\0" in text:
            self.at = text.index("\0")
            raise self.error("null character")

    def line(self) -> int:
        """The line of the current place; amortised over the text, as places only move on."""
        if self.at < self._line_at:
            self._line, self._line_at = 1, 0
        self._line += self.text.count("\n", self._line_at, self.at)
        self._line_at = self.at
        return self._line

    def error(self, reason: str) -> HclError:
        column = self.at - self.text.rfind("\n", 0, self.at)
        return HclError(reason, self.line(), column, self.source)

    def peek(self) -> str:
        """The character at the current place; empty at the end."""
        return self.text[self.at : self.at + 1]

    def take(self, character: str) -> bool:
        """Step over the character if it is next."""
        if self.text.startswith(character, self.at):
            self.at += 1
            return True
        return False

    def enter(self) -> None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise self.error(f"nested deeper than {DEPTH_MAX}")


class _Hcl(_Text):
    """Recursive descent over HCL 1. Line breaks separate nothing; commas between items may stand
    or be left out, and lists take stray ones, as the reference implementation does."""

    def skip(self) -> None:
        match = _BLANK.match(self.text, self.at)
        assert match is not None, "the pattern matches the empty text"
        self.at = match.end()
        if self.text.startswith("/", self.at):
            unclosed = self.text.startswith("/*", self.at)
            raise self.error("comment not terminated" if unclosed else "expected '/' for comment")

    def document(self) -> Body:
        items: list[Item] = []
        self.skip()
        while self.at < len(self.text):
            items.append(self.item())
        return Body(tuple(items))

    def body(self) -> Body:
        """What follows an opening brace, up to and with the closing one."""
        self.enter()
        items: list[Item] = []
        self.skip()
        while not self.take("}"):
            if self.at >= len(self.text):
                raise self.error("object expected closing brace, got end of text")
            items.append(self.item())
        self.depth -= 1
        return Body(tuple(items))

    def item(self) -> Item:
        """One `key = value` or `key "label" … { … }`, and a comma after it."""
        line = self.line()
        keys = self.keys()
        if self.take("{"):
            value: Value = self.body()
        else:
            if len(keys) > 1:
                raise self.error("after several keys an object must begin, not an assignment")
            self.at += 1  # over "=": keys() ends at nothing else
            self.skip()
            value = self.value()
        self.skip()
        if self.take(","):
            self.skip()
        return Item(keys, value, line)

    def keys(self) -> tuple[str, ...]:
        """The keys before `{` or `=`, which is where they end."""
        keys: list[str] = []
        while True:
            self.skip()
            next_ = self.peek()
            if next_ and next_ in "{=":
                if not keys:
                    raise self.error("expected a key")
                return tuple(keys)
            if next_ == '"':
                keys.append(self.string())
            elif match := _IDENT.match(self.text, self.at):
                keys.append(match[0])
                self.at = match.end()
            elif keys:
                raise self.error("key expected start of object ('{') or assignment ('=')")
            else:
                raise self.error("expected a key")

    def value(self) -> Value:
        next_ = self.peek()
        if next_ == '"':
            return self.string()
        if next_ == "{":
            self.at += 1
            return self.body()
        if next_ == "[":
            self.at += 1
            return self.list()
        if next_ == "<":
            return self.heredoc()
        if match := _NUMBER.match(self.text, self.at):
            return self.number(match)
        match = _IDENT.match(self.text, self.at)
        if match and match[0] in ("true", "false"):
            self.at = match.end()
            return match[0] == "true"
        raise self.error("expected a value: text in quotes, a number, true, false, [ or {")

    def list(self) -> list[Value]:
        """What follows an opening bracket, up to and with the closing one."""
        self.enter()
        values: list[Value] = []
        comma = True
        while True:
            self.skip()
            if self.take("]"):
                self.depth -= 1
                return values
            if self.take(","):
                comma = True
                continue
            if not comma or self.at >= len(self.text):
                raise self.error("error parsing list, expected comma or list end")
            values.append(self.value())
            comma = False

    def number(self, match: re.Match[str]) -> int | float:
        digits = match[0]
        try:
            value = _number(digits)
        except ValueError:
            raise self.error("not a number") from None
        if value in _INT64 if isinstance(value, int) else abs(value) != float("inf"):
            self.at = match.end()
            return value
        raise self.error("the number is out of range")

    def string(self) -> str:
        if match := _SIMPLE_STRING.match(self.text, self.at):
            self.at = match.end()
            return match[1]
        self.at += 1
        parts: list[bytes] = []  # bytes, as \x and octal escapes give bytes
        while not self.take('"'):
            next_ = self.peek()
            if next_ in ("", "\n"):
                raise self.error("literal not terminated")
            if next_ == "\\":
                parts.append(self.escape())
            elif self.text.startswith("${", self.at):
                parts.append(self.interpolation().encode())
            else:
                parts.append(next_.encode())
                self.at += 1
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            raise self.error("the text's escapes do not give UTF-8") from None

    def escape(self) -> bytes:
        match = _ESCAPE.match(self.text, self.at)
        if match is None:
            raise self.error("illegal char escape")
        simple, octal, byte, short, long = match.groups()
        try:
            if simple:
                result = _ESCAPED[simple].encode()
            elif octal or byte:
                result = bytes((int(octal, 8) if octal else int(byte, 16),))
            else:
                result = chr(int(short or long, 16)).encode()
        except (ValueError, OverflowError):
            raise self.error("illegal char escape") from None
        self.at = match.end()
        return result

    def interpolation(self) -> str:
        """`${ … }` stays as it stands: whoever reads the value may give it a meaning."""
        start, braces = self.at, 0
        while True:
            next_ = self.peek()
            if not next_:
                raise self.error("literal not terminated")
            if next_ == "\\":
                self.escape()
                continue
            self.at += 1
            if next_ == "{":
                braces += 1
            elif next_ == "}":
                braces -= 1
                if not braces:
                    return self.text[start : self.at]

    def heredoc(self) -> str:
        """`<<END` up to a line that holds nothing but END; `<<-END` also drops its indent."""
        match = _HEREDOC.match(self.text, self.at)
        if match is None:
            raise self.error("after << a heredoc's anchor must stand alone on its line")
        indented, anchor = match.groups()
        end = re.compile(rf"^([^\S\n]*){re.escape(anchor)}\r*\n", re.MULTILINE)
        closing = end.search(self.text, match.end())
        if closing is None:
            raise self.error("heredoc not terminated")
        content = self.text[match.end() : closing.start()]
        self.at = closing.end() - 1
        return _unindent(content, closing[1]) if indented else content


def _number(digits: str) -> int | float:
    if "x" in digits or "X" in digits:
        return int(digits, 16)
    if not digits.lstrip("-").isdigit():
        return float(digits)
    if len(digits) > 20:
        return 2**64  # out of range, whatever it is
    octal = digits.lstrip("-").startswith("0")
    return int(digits, 8) if octal else int(digits)


def _unindent(content: str, indent: str) -> str:
    """Every line without the closing line's indent, if they all have it."""
    lines = content.split("\n")
    if not all(line.startswith(indent) for line in lines[:-1]):
        return content
    return "\n".join(line[len(indent) :] for line in lines)


_JSON_BLANK: Final = re.compile(r"[ \t\r\n]*")
_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_JSON_WORDS: Final = {"true": True, "false": False, "null": None}


class _Json(_Text):
    """Recursive descent over JSON that keeps lines and repeated keys, which `json` does not.

    Existing files may have a comma before a closing bracket, which is taken.
    """

    def skip(self) -> None:
        match = _JSON_BLANK.match(self.text, self.at)
        assert match is not None, "the pattern matches the empty text"
        self.at = match.end()

    def document(self) -> Body:
        self.skip()
        if not self.take("{"):
            raise self.error("expected an object")
        body = self.body()
        self.skip()
        if self.at < len(self.text):
            raise self.error("expected the end of the text")
        return body

    def body(self) -> Body:
        self.enter()
        items: list[Item] = []
        self.skip()
        if not self.take("}"):
            while True:
                items.append(self.item())
                if self.ends("}"):
                    break
        self.depth -= 1
        return Body(tuple(items))

    def item(self) -> Item:
        self.skip()
        line = self.line()
        if self.peek() != '"':
            raise self.error("expected a key in quotes")
        key = self.string()
        self.skip()
        if not self.take(":"):
            raise self.error("expected a colon")
        return Item((key,), self.value(), line)

    def list(self) -> list[Value]:
        self.enter()
        values: list[Value] = []
        self.skip()
        if not self.take("]"):
            while True:
                values.append(self.value())
                if self.ends("]"):
                    break
        self.depth -= 1
        return values

    def ends(self, closing: str) -> bool:
        """After an element: whether the closing character comes; a comma may stand before it."""
        self.skip()
        comma = self.take(",")
        if comma:
            self.skip()
        if self.take(closing):
            return True
        if comma:
            return False
        raise self.error(f"expected a comma or {closing}")

    def value(self) -> Value:
        self.skip()
        if self.take("{"):
            return self.body()
        if self.take("["):
            return self.list()
        if self.peek() == '"':
            return self.string()
        if match := _JSON_NUMBER.match(self.text, self.at):
            return self.number(match)
        for word, value in _JSON_WORDS.items():
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        raise self.error("expected a value")

    def number(self, match: re.Match[str]) -> int | float:
        text = match[0]
        whole = text.lstrip("-").isdigit()
        value = int(text) if whole and len(text) <= 20 else float(text)
        if value in _INT64 if isinstance(value, int) else (not whole and abs(value) < float("inf")):
            self.at = match.end()
            return value
        raise self.error("the number is out of range")

    def string(self) -> str:
        if match := _JSON_STRING.match(self.text, self.at):
            try:
                text = str(json.loads(match[0]))
                text.encode()
            except ValueError:  # a bad escape, a control character, half a surrogate pair
                pass
            else:
                self.at = match.end()
                return text
        raise self.error("not a valid JSON text")


def _flatten(body: Body) -> Body:
    """Nested objects become items with several keys, as blocks of HCL are.

    An object of objects, or a list of objects, is a series of blocks; an empty one and one with
    anything else in it is a value.
    """
    return Body(tuple(flat for item in body.items for flat in _flatten_item(item)))


def _flatten_item(item: Item) -> Iterator[Item]:
    value = item.value
    if isinstance(value, list):
        if value and all(isinstance(element, Body) for element in value):
            for element in value:
                yield from _flatten_item(Item(item.keys, element, item.line))
        else:
            yield Item(item.keys, _flatten_list(value), item.line)
    elif isinstance(value, Body):
        if value.items and all(isinstance(inner.value, Body) for inner in value.items):
            for inner in value.items:
                yield from _flatten_item(Item(item.keys + inner.keys, inner.value, inner.line))
        else:
            yield Item(item.keys, _flatten(value), item.line)
    else:
        yield item


def _flatten_list(values: list[Value]) -> list[Value]:
    return [_flatten(value) if isinstance(value, Body) else value for value in values]
