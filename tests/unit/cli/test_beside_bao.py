"""Our commands and `bao`'s, against the same server: same results, same exit codes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import ROOT, Oracle, Ran, Run

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module", autouse=True)
def _filled(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A KV v1 mount with a bit of everything, a user, a deleted version."""
    home = tmp_path_factory.mktemp("home")

    def bao(*words: str, stdin: str = "") -> None:
        done = oracle.run(*words, home=home, stdin=stdin)
        assert done.code == 0, done.err

    bao("secrets", "enable", "-version=1", "-path=kv1", "kv")
    values = (
        '{"n":1.50,"l":["a",1,null],"m":{"k":true,"a":{}},"s":"two\\nlines","e":"","ttl":90,'
        '"z":12345678901234567890,"x_ttl":"5","period":3661,"f":1e3,"lease_max":0,"u":"ü→","b":false,'
        '"my_duration":7200,"o":null}'
    )
    bao("write", "kv1/all", "-", stdin=values)
    bao("write", "kv1/dir/one", "a=1")
    bao("write", "kv1/warned", "a=1", "ttl=1h")
    bao("kv", "put", "secret/gone", "a=1")
    bao("kv", "delete", "secret/gone")
    bao("auth", "enable", "userpass")
    bao("write", "auth/userpass/users/bob", "password=pw", "token_policies=default,extra")


def both(oracle: Oracle, run: Run, tmp_path: Path, *words: str) -> tuple[Ran, Ran]:
    theirs = oracle.run(*words, home=tmp_path)
    return theirs, run(*words, VAULT_ADDR=oracle.address, VAULT_TOKEN=ROOT)


def same(text: str) -> str:
    """Without what differs between two calls: ids, times, counts."""
    text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b", "UUID", text)
    text = re.sub(r"\b[sb]\.\w{20,}", "TOKEN", text)
    text = re.sub(r"\b[A-Za-z0-9]{24}\b", "ACCESSOR", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+(?:Z| \+0000 UTC)", "TIME", text)
    text = re.sub(r"(encryptions +|\"encryptions\": )\d+", r"\1N", text)
    text = re.sub(r"(Encryption Count +)\d+", r"\1N", text)
    return re.sub(r"\nCommit Date .*", "", text)


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "read sys/key-status",
        "read kv1/all",
        "read kv1/warned",
        "read /kv1/all/",
        "read secret/data/gone",
        "read auth/userpass/users/bob",
        "read sys/mounts/cubbyhole",
        "read -field=m kv1/all",
        "read -field=l kv1/all",
        "read -field=n kv1/all",
        "read -field=ttl kv1/all",
        "read -field=s kv1/all",
        "read -field=e kv1/all",
        "read -format=json -field=m kv1/all",
        "read -field=lease_duration kv1/all",
        "read -field=my_duration kv1/all",
        "write -field=token_policies auth/token/create",
        "write -field=renewable auth/token/create ttl=60",
        "write -field=token_renewable -format=json auth/token/create ttl=60",
        "read -field=nothing kv1/all",
        "read -wrap-ttl=60 sys/key-status",
        "read nowhere/at/all",
        "read kv1/nothing",
        "read",
        "read -no-such-flag x",
        "list kv1",
        "list kv1/",
        "list kv1/dir",
        "list kv1/nothing",
        "list -format=json kv1",
        "list -format=json kv1/nothing",
        "write kv1/new a=1 b=",
        "write -format=json kv1/new a=1",
        "write kv1/new",
        "write kv1/new a",
        "write kv1/new a=@nowhere",
        "write -force kv1/new",
        "write -f sys/rotate",
        "write nowhere/at/all a=1",
        "write auth/token/create policies=default ttl=90m",
        "write -wrap-ttl=5m auth/token/create policies=default",
        "write -field=token_duration auth/token/create ttl=60",
        "write sys/mounts/secret/tune max_lease_ttl=10h",
        "delete kv1/new",
        "delete sys/nowhere",
        "delete",
        "operator key-status",
        "operator init",
        "operator unseal zzz",
        "operator generate-root -status",
        "operator generate-root -init -otp=short",
        "operator generate-root -cancel",
        f"login -no-store -token-only {ROOT}",
        "login -method=userpass -no-store -field=policies username=bob password=pw",
        "login -method=userpass -no-store username=bob password=wrong",
        "login -no-store wrong",
    ],
)
def test_same_output_and_exit_code(words: str, oracle: Oracle, run: Run, tmp_path: Path) -> None:
    theirs, ours = both(oracle, run, tmp_path, *words.split(" "))
    assert ours.code == theirs.code, ours.err
    if theirs.code == 0 and theirs.out and not theirs.out.startswith("Success!"):
        assert same(ours.out) == same(theirs.out)
    else:
        assert bool(ours.out) == bool(theirs.out)
    if theirs.code == 0 and not theirs.err:
        assert ours.err == ""


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "read kv1/all",
        "read secret/data/gone",
        "read -wrap-ttl=60 sys/key-status",
        "write auth/token/create policies=default",
        "operator key-status",
        "operator rotate",
        "operator generate-root -status",
    ],
)
def test_same_json(words: str, oracle: Oracle, run: Run, tmp_path: Path) -> None:
    command, *rest = words.split(" ")
    if command == "operator":
        command, rest = f"operator {rest[0]}", rest[1:]
    theirs, ours = both(oracle, run, tmp_path, *command.split(" "), "-format=json", *rest)
    assert ours.code == theirs.code
    expected = shape(json.loads(theirs.out))
    expected.pop("ha_enabled", None)  # bao adds it; ours shows what the server said
    assert contains(shape(json.loads(ours.out)), expected)


def contains(whole: Any, part: Any) -> bool:
    """Ours shows what the server answered, of which bao leaves out what it does not know."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            k in whole and contains(whole[k], v) for k, v in part.items()
        )
    return bool(whole == part)


def shape(value: Any) -> Any:
    """A document whose ids and times are their types, and whose empty parts count as absent."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items() if v not in ("", None) or k == "o"}
    if isinstance(value, list):
        return [shape(element) for element in value]
    return (
        same(value)
        if isinstance(value, str)
        else value
        if isinstance(value, bool)
        else str(type(value))
    )


def test_json_numbers_stay_as_they_were_written(oracle: Oracle, run: Run) -> None:
    shown = run("read", "-format=json", "kv1/all", VAULT_ADDR=oracle.address, VAULT_TOKEN=ROOT)
    for text in ('"n": 1.50', '"f": 1e3', '"z": 12345678901234567890'):
        assert text in shown.out


def test_written_numbers_stay_as_they_were_written(
    oracle: Oracle, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "d.json"
    file.write_text('{"n": 1.50, "z": 12345678901234567890}')
    at = {"VAULT_ADDR": oracle.address, "VAULT_TOKEN": ROOT}
    assert run("write", "kv1/numbers", f"@{file}", **at).code == 0
    assert run("read", "-field=n", "kv1/numbers", **at).out == "1.50"


def test_warnings_go_to_standard_error(oracle: Oracle, run: Run) -> None:
    shown = run("read", "kv1/all", "k=v", VAULT_ADDR=oracle.address, VAULT_TOKEN=ROOT)
    assert "unrecognized parameters: [k]" in shown.err
    assert "unrecognized" not in shown.out


def test_a_login_is_kept_for_both_commands(oracle: Oracle, run: Run, tmp_path: Path) -> None:
    words = ("login", "-method=userpass", "username=bob", "password=pw")
    done = run(*words, VAULT_ADDR=oracle.address)
    assert done.code == 0
    kept = (tmp_path / ".vault-token").read_text()
    assert kept in done.out
    assert (tmp_path / ".vault-token").stat().st_mode & 0o777 == 0o600
    ours = run("read", "auth/token/lookup-self", VAULT_ADDR=oracle.address)
    assert "userpass-bob" in ours.out
    theirs = oracle.run("token", "lookup", token="", home=tmp_path)
    assert "userpass-bob" in theirs.out


def test_a_root_token_from_key_shares(oracle: Oracle, run: Run) -> None:
    at = {"VAULT_ADDR": oracle.address, "VAULT_TOKEN": ROOT}
    words = ("operator", "generate-root")
    attempt = json.loads(run(*words, "-init", "-format=json", **at).out)
    done = run(*words, f"-nonce={attempt['nonce']}", "-format=json", oracle.unseal_key, **at)
    encoded = json.loads(done.out)["encoded_token"]
    token = run(*words, f"-decode={encoded}", f"-otp={attempt['otp']}").out.strip()
    found = run(
        "read",
        "-field=policies",
        "auth/token/lookup-self",
        VAULT_TOKEN=token,
        VAULT_ADDR=oracle.address,
    )
    assert found.out == "[root]"


def test_seal_and_unseal(oracle: Oracle, run: Run) -> None:
    at = {"VAULT_ADDR": oracle.address, "VAULT_TOKEN": ROOT}
    assert run("operator", "seal", **at).code == 0
    try:
        sealed = run("status", **at)
        assert sealed.code == 2
        assert re.search(r"Sealed +true\n", sealed.out)
        refused = run("read", "kv1/all", **at)
        assert refused.code == 2
        assert "Vault is sealed" in refused.err
        assert "operator unseal" in refused.err
    finally:
        opened = run("operator", "unseal", oracle.unseal_key, **at)
    assert opened.code == 0
    assert re.search(r"Sealed +false\n", opened.out)
