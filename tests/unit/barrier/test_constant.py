"""Secrets are compared in one place; nowhere else in the whole source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import undercroft
from undercroft.barrier.constant import same

SOURCE = Path(undercroft.__file__).parent
# What a variable, attribute or function that holds or answers a secret is called here.
SECRETS = {
    "_mac",
    "bearer",
    "client_token",
    "key_text",
    "mac",
    "nonce",
    "otp",
    "password",
    "password_hash",
    "private_key",
    "recovery_key",
    "root_id",
    "root_key",
    "root_token",
    "salt",
    "seal_key",
    "secret",
    "share",
    "token",
    "token_id",
}


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [("a", "a", True), ("a", b"a", True), ("a", "b", False), ("é", "é", True), ("a", "", False)],
)
def test_text_and_bytes_compare(a: str | bytes, b: str | bytes, equal: bool) -> None:
    assert same(a, b) is equal


def held(side: ast.expr) -> ast.expr:
    """What a side of a comparison is made of: `a.nonce` of `a.nonce[:4]` and `a.nonce.encode()`."""
    while True:
        match side:
            case ast.Subscript(value=inner) | ast.Call(func=ast.Attribute(value=inner)):
                side = inner
            case ast.Call(func=inner):
                side = inner
            case _:
                return side


def comparisons(tree: ast.AST) -> Iterator[str]:
    """`a == b`, `a in b` and the like where either side, constants apart, is named as a secret."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(
            node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn
        ):
            sides = (node.left, *node.comparators)
            names = {getattr(held(side), "id", getattr(held(side), "attr", "")) for side in sides}
            itself = len({ast.unparse(held(side)) for side in sides}) == 1  # `otp != otp.strip()`
            constant = any(isinstance(side, ast.Constant) for side in sides)
            if SECRETS & names and not itself and not constant:
                yield ast.unparse(node)


def test_threat_tok_17_secrets_are_compared_only_through_the_helper() -> None:
    found = {
        f"{file.relative_to(SOURCE)}: {text}"
        for file in SOURCE.rglob("*.py")
        for text in comparisons(ast.parse(file.read_text()))
    }
    assert found == set()


def test_threat_tok_17_the_helper_alone_knows_how() -> None:
    users = {
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if "compare_digest" in file.read_text()
    }
    assert users == {"barrier/constant.py"}


@pytest.mark.parametrize(
    "text",
    [
        "attempt.nonce == sent",
        "attempt.nonce == nonce",
        "sent != attempt.nonce",
        "nonce[:4] == sent",
        "password.encode() == sent",
        "_mac(body) == sent",
        "request.token in known",
    ],
)
def test_the_check_sees_a_plain_comparison(text: str) -> None:
    assert list(comparisons(ast.parse(text))) == [text]


@pytest.mark.parametrize(
    "text",
    ["same(attempt.nonce, sent)", "nonce == ''", "len(share) == 33", "token != token.strip()"],
)
def test_the_check_lets_others_be(text: str) -> None:
    assert list(comparisons(ast.parse(text))) == []
