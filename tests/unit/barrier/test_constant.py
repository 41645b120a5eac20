"""Secrets are compared in one place; nowhere else in the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import undercroft
from undercroft.barrier.constant import same

SOURCE = Path(undercroft.__file__).parent
# What a variable or attribute that holds a secret is called here.
SECRETS = {
    "key_text",
    "mac",
    "nonce",
    "otp",
    "password",
    "recovery_key",
    "root_key",
    "root_token",
    "seal_key",
    "secret",
    "share",
    "token_id",
}


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [("a", "a", True), ("a", b"a", True), ("a", "b", False), ("é", "é", True), ("a", "", False)],
)
def test_text_and_bytes_compare(a: str | bytes, b: str | bytes, equal: bool) -> None:
    assert same(a, b) is equal


def comparisons(tree: ast.AST) -> Iterator[str]:
    """`a == b` and `a != b` where either side, an emptiness test apart, is named as a secret."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            sides = (node.left, *node.comparators)
            names = {getattr(side, "id", getattr(side, "attr", "")) for side in sides}
            if names & SECRETS and not any(isinstance(side, ast.Constant) for side in sides):
                yield ast.unparse(node)


def test_threat_tok_17_the_barrier_compares_secrets_only_through_the_helper() -> None:
    files = [*(SOURCE / "barrier").glob("*.py"), *(SOURCE / "engines/system").glob("*.py")]
    found = {f"{f.name}: {text}" for f in files for text in comparisons(ast.parse(f.read_text()))}
    assert found == set()


def test_threat_tok_17_the_lint_sees_a_plain_comparison() -> None:
    assert list(comparisons(ast.parse("attempt.nonce == sent"))) == ["attempt.nonce == sent"]
    assert list(comparisons(ast.parse("same(attempt.nonce, sent)"))) == []
