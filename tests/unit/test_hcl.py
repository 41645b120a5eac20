"""The language of policies and configuration files: what is read, what is refused, and how."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.errors import InvalidRequest
from undercroft.hcl import DEPTH_MAX, TEXT_BYTES_MAX, Body, HclError, Item, parse, parse_json, plain


def value_of(text: str) -> object:
    """The plain value of `x` in a document that only assigns x."""
    (item,) = parse(f"x = {text}\n").items
    assert item.keys == ("x",)
    return plain(item.value)


def test_a_block_has_its_type_and_labels_as_keys_and_a_body_as_value() -> None:
    body = parse('listener "tcp" {\n  address = "127.0.0.1:8200"\n}\n')
    assert body == Body(
        (Item(("listener", "tcp"), Body((Item(("address",), "127.0.0.1:8200", line=2),)), line=1),)
    )


def test_items_keep_their_order_and_repeated_keys() -> None:
    body = parse('a = 1\nb = 2\na = 3\npath "x" {}\npath "x" {}')
    assert [(i.keys, i.line) for i in body.items] == [
        (("a",), 1),
        (("b",), 2),
        (("a",), 3),
        (("path", "x"), 4),
        (("path", "x"), 5),
    ]
    assert [item.value for item in body.find("a")] == [1, 3]


@pytest.mark.parametrize("text", ["", "  \n", "# c", "// c", "/* c */", "#", "\r\n", "/**/# x\n//"])
def test_blanks_and_comments_are_an_empty_body(text: str) -> None:
    assert parse(text) == Body(())


@pytest.mark.parametrize(
    "text",
    [
        'a = 1 b "c" { d = 2 }',
        'a = 1, b "c" { d = 2, },',
        '"a" = 1\n"b" "c" { "d" = 2 }',
        "a\n=\n1 b c\n{ d = /* x */ 2 # y\n}",
        'a = 1\r\nb "c" {\r\nd = 2\r\n}\r\n',
    ],
)
def test_line_breaks_separate_nothing_and_commas_are_optional(text: str) -> None:
    assert plain(parse(text)) == {"a": 1, "b": {"c": {"d": 2}}}


def test_an_equals_sign_may_stand_before_a_brace() -> None:
    assert plain(parse("a = { b = 1 }")) == plain(parse("a { b = 1 }")) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x1F", 31),
        ("-0X10", -16),
        ("010", 8),
        ("00", 0),
        ("-1", -1),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("09.5", 9.5),
        ("1e3", 1000.0),
        ("1.5E-3", 0.0015),
        ("9223372036854775807", 2**63 - 1),
        ("true", True),
        ("false", False),
        ('"text"', "text"),
        ('""', ""),
        (r'"\a\b\f\n\r\t\v\\\""', '\a\b\f\n\r\t\v\\"'),
        (r'"\x41\101\u0041\U00000041"', "AAAA"),
        (r'"\xc3\xa9"', "é"),
        ('"${a "b" {c}}d"', '${a "b" {c}}d'),
        ('"${\n}"', "${\n}"),
        ('"$"', "$"),
        ("[]", []),
        ("[1, 2,]", [1, 2]),
        ("[,1,,2]", [1, 2]),
        ('[1, "a", true, [2], {a = 1}]', [1, "a", True, [2], {"a": 1}]),
        ("[1 # c\n, // d\n 2]", [1, 2]),
        ("<<EOF\nhello\nEOF", "hello\n"),
        ("<<EOF\nEOF", ""),
        ("<<EOF\n  a\n  EOF", "  a\n"),
        ("<<-EOF\n    a\n  b\n  EOF", "  a\nb\n"),
        ("<<-EOF\n  a\n b\n  EOF", "  a\n b\n"),
        ("<<EOF\r\na\r\nEOF\r", "a\r\n"),
        ("[<<A\n1\nA\n, <<B\n2\nB\n]", ["1\n", "2\n"]),
    ],
)
def test_values(text: str, value: object) -> None:
    result = value_of(text)
    assert result == value
    assert type(result) is type(value)


BROKEN = [
    "/* c",
    "/",
    "x",
    "x y",
    "{",
    "= 1",
    "x = ",
    "x = y",
    "x = null",
    "x y = 1",
    'x "y" = {}',
    "x {",
    "x }",
    "x { y = 1",
    "x [1]",
    "x = 1;",
    "x: 1",
    "1x = 1",
    "x = [1",
    "x = [1 2]",
    "x = [{a=1}{b=2}]",
    "x = [y]",
    "x = [null]",
    "x = 'a'",
    'x = "a',
    'x = "a\nb"',
    r'x = "\q"',
    r'x = "\u12"',
    r'x = "\400"',
    r'x = "\U00110000"',
    r'x = "\ud800"',
    r'x = "\xff"',
    r'x = "${\q}"',
    'x = "${a"',
    "x = +1",
    "x = --1",
    "x = -.5",
    "x = 0x",
    "x = 1e",
    "x = 08",
    "x = 1_0",
    "x = 1a",
    "x = 9223372036854775808",
    "x = " + "9" * 5000,
    "x = 1e999",
    "x = <EOF\na\nEOF\n",
    "x = <<\na\n\n",
    "x = <<EOF y\na\nEOF\n",
    'x = <<"EOF"\na\nEOF\n',
    "x = <<EOF\na\nEOF",
    "<<EOF\na\nEOF\n {}",
    "\ufeffx = 1",
    "x = 1 \0",
    'x = "\0"',
    'x = "\ud800"',
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_not_hcl_is_refused(text: str) -> None:
    with pytest.raises(HclError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        "{",
        '{"a"}',
        '{"a":}',
        '{"a":1',
        '{"a":1}}',
        '{"a":1} x',
        '{"a":1} {"b":2}',
        "{a:1}",
        '{"a" 1}',
        '{"a":1,,"b":2}',
        '{"a":01}',
        '{"a":+1}',
        '{"a":.5}',
        '{"a":0x1}',
        '{"a":NaN}',
        '{"a":9223372036854775808}',
        '{"a":1e999}',
        '{"a":"\\q"}',
        '{"a":"x\ny"}',
        '{"a":"\\ud800"}',
        '{"a":True}',
        '{/* c */"a":1}',
        "{# c\n}",
    ],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(HclError):
        parse_json(text)


def test_an_error_names_source_line_and_column() -> None:
    with pytest.raises(HclError) as caught:
        parse('a = 1\npath "x" {\n  b = @\n}', source="server.hcl")
    error = caught.value
    assert (error.source, error.line, error.column) == ("server.hcl", 3, 7)
    assert error.message.startswith("server.hcl: At 3:7: ")
    assert isinstance(error, InvalidRequest)


def test_a_text_that_begins_with_a_brace_is_json() -> None:
    assert parse(' \n{"a": {"b": 1}}') == parse_json('\n{"a": {"b": 1}}')


def test_json_objects_of_objects_become_blocks_as_in_hcl() -> None:
    hcl = parse('listener "tcp" { a = 1 }\nlistener "tcp" { a = 2 }\nx { b = [1] }\ny {}')
    for text in (
        '{"listener": {"tcp": {"a": 1}}, "listener": {"tcp": {"a": 2}}, "x": {"b": [1]}, "y": {}}',
        '{"listener": [{"tcp": {"a": 1}}, {"tcp": {"a": 2}}], "x": {"b": [1]}, "y": {}}',
    ):
        assert [(i.keys, plain(i.value)) for i in parse_json(text).items] == [
            (i.keys, plain(i.value)) for i in hcl.items
        ]


def test_json_keeps_lines_null_and_repeated_keys() -> None:
    body = parse_json('{\n"a": null,\n"b": {\n"c": {"d": 1},\n"c": {"d": 2}\n}}')
    assert [(i.keys, i.line) for i in body.items] == [
        (("a",), 2),
        (("b", "c"), 4),
        (("b", "c"), 5),
    ]
    assert body.items[0].value is None


def test_json_takes_a_comma_before_a_closing_bracket() -> None:
    assert plain(parse_json('{"a": [1, 2,], "b": 3,}')) == {"a": [1, 2], "b": 3}


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ("[{a = ", "}]"), ("{ a = ", " }"), ("{ a { b = ", " } }")]
)
def test_depth_is_bounded(opening: str, closing: str) -> None:
    levels = DEPTH_MAX // max(1, opening.count("[") + opening.count("{"))
    parse(f"x = {opening * levels}1{closing * levels}")
    with pytest.raises(HclError, match="nested deeper"):
        parse(f"x = {opening * 50_000}")


def test_json_depth_is_bounded() -> None:
    with pytest.raises(HclError, match="nested deeper"):
        parse_json('{"a":' * 50_000)
    with pytest.raises(HclError, match="nested deeper"):
        parse_json('{"a":' + "[" * 50_000)


def test_size_is_bounded_in_bytes() -> None:
    parse("#" * TEXT_BYTES_MAX)
    for text in ("#" * (TEXT_BYTES_MAX + 1), "#" + "é" * (TEXT_BYTES_MAX // 2)):
        with pytest.raises(HclError, match="longer than"):
            parse(text)


CANARY = "hvs-canary-3f9c"


@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        f'x = "{CANARY}',
        f'x = "{CANARY}\\q"',
        f"x = {CANARY}",
        f'x = ["{CANARY}" "{CANARY}"]',
        f"x = <<{CANARY}\n",
        f"x = <<A\n{CANARY}",
        f"{CANARY} {CANARY} = 1",
        f'{{"{CANARY}": {CANARY}}}',
        f'{{"{CANARY}": "{CANARY}\\q"}}',
        f'{{"{CANARY}"',
    ],
)
def test_threat_aud_07_a_broken_text_is_not_echoed(text: str) -> None:
    with pytest.raises(HclError) as caught:
        parse(text)
    assert CANARY not in str(caught.value)
    assert CANARY not in caught.value.message + repr(caught.value)


def test_a_repr_shows_no_value() -> None:
    assert CANARY not in repr(parse(f'a = "{CANARY}" b "c" {{ d = ["{CANARY}"] }}'))


@given(st.text(alphabet='ab=1"{}[],<\n#/*\\$x0.-e _éE:'))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(HclError):
        assert isinstance(parse(text), Body)


words = st.text(max_size=8).filter(lambda t: "\0" not in t)
scalars = (
    words
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
objects = st.recursive(
    st.dictionaries(words, values, max_size=4),
    lambda inner: st.dictionaries(words, values | inner, max_size=3),
    max_leaves=4,
)


def printed(value: object) -> str:
    """HCL that means `value`."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case list():
            return "[" + ", ".join(printed(v) for v in value) + "]"
        case dict():
            return "{" + " ".join(f"{quoted(k)} = {printed(v)}" for k, v in value.items()) + "}"
        case _:
            return repr(value)


def quoted(text: str) -> str:
    return '"' + "".join(f"\\U{ord(c):08x}" if c in '"\\\n$' else c for c in text) + '"'


@given(objects)
def test_what_is_printed_is_parsed_back_in_both_forms(value: dict[str, object]) -> None:
    inside = printed(value).removeprefix("{").removesuffix("}")
    if not inside.lstrip().startswith("{"):
        assert plain(parse(inside)) == value
    assert plain(parse_json(json.dumps(value))) == value
