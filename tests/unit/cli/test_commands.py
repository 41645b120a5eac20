"""The command line itself: dashes, switches, environment, exit codes, and what is never shown."""

import io
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.unit.cli.conftest import Run
from undercroft.cli.arguments import parse
from undercroft.cli.certificates import Certificates, make_certificates
from undercroft.cli.commands import COMMANDS, Command
from undercroft.cli.dev_banner import banner
from undercroft.cli.failure import CommandError, UsageError
from undercroft.cli.server import pid_file

CANARY = "canary-in-a-value"


def command(name: str) -> Command:
    return next(c for c in COMMANDS if c.name == name)


# Go's command lines


@pytest.mark.parametrize(
    "words",
    [
        ["-field=a", "kv/x"],
        ["--field=a", "kv/x"],
        ["-field", "a", "kv/x"],
        ["kv/x", "--field", "a"],
    ],
)
def test_flags_with_one_dash_or_two_before_or_after(words: list[str]) -> None:
    values = parse(command("read"), words, {})
    assert (values.field, values.arguments) == ("a", ["kv/x"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-force", "p"], True),
        (["-f", "p"], True),
        (["-force=true", "p"], True),
        (["--force=1", "p"], True),
        (["-force=false", "p"], False),
        (["p"], False),
    ],
)
def test_switches_take_a_value_as_in_go(words: list[str], expected: bool) -> None:
    assert parse(command("write"), words, {}).force is expected


def test_data_may_stand_around_flags() -> None:
    values = parse(command("write"), ["kv/x", "a=1", "-force", "b=-5", "-"], {})
    assert values.arguments == ["kv/x", "a=1", "b=-5", "-"]


def test_flags_repeat_where_that_makes_sense() -> None:
    assert parse(command("server"), ["-config=a", "--config", "b"], {}).config == ["a", "b"]


def test_the_command_line_beats_baos_variables_which_beat_vaults() -> None:
    environment = {"VAULT_ADDR": "v", "BAO_ADDR": "b", "VAULT_SKIP_VERIFY": "true"}
    assert parse(command("status"), ["-address=f"], environment).address == "f"
    values = parse(command("status"), [], environment)
    assert (values.address, values.tls_skip_verify) == ("b", True)
    off = parse(command("status"), ["-tls-skip-verify=false"], environment)
    assert off.tls_skip_verify is False


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-nope=" + CANARY, "x"], "unknown flag -nope"),
        (["-format=" + CANARY, "x"], "-format must be one of table, json"),
        ([], "not enough arguments"),
        (["-field"], "expected one argument"),
    ],
)
def test_a_mistake_is_told_without_its_value(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        parse(command("read"), words, {})
    assert CANARY not in caught.value.text + caught.value.hint


# Exit codes


@pytest.mark.parametrize("words", [[], ["nope"], ["operator"], ["operator", "nope"]])
def test_no_such_command_is_127_and_lists_what_there_is(words: list[str], run: Run) -> None:
    done = run(*words)
    assert done.code == 127
    assert "operator unseal" in done.err


def test_help_is_no_failure(run: Run) -> None:
    assert "server" in run("-h").out
    for listed in COMMANDS:
        done = run(*listed.name.split(" "), "-h")
        assert done.code == 0
        assert listed.example in done.out


def test_the_version(run: Run) -> None:
    for words in (["version"], ["-version"], ["-v"]):
        assert re.fullmatch(r"Undercroft v\d+\.\d+\.\d+\n", run(*words).out)


def test_an_unreachable_server_is_1_for_status_and_2_for_the_rest(run: Run) -> None:
    nowhere = {"VAULT_ADDR": "http://127.0.0.1:1"}
    assert run("status", **nowhere).code == 1
    done = run("read", "x", **nowhere)
    assert done.code == 2
    assert done.err.startswith("Error: cannot talk to http://127.0.0.1:1: Connection refused\n  ")


def test_status_starts_in_150_ms() -> None:
    """The best of five, so that other work on the machine does not count."""
    environment = {**os.environ, "VAULT_ADDR": "http://127.0.0.1:1"}
    words = [sys.executable, "-m", "undercroft", "status"]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(words, env=environment, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.150


# What is never shown or sent


@pytest.mark.parametrize(
    "words",
    [
        ["write", "x", CANARY],
        ["write", "x", "@/nowhere", "a=" + CANARY],
        ["login", CANARY + " " + CANARY],
        ["read", "-header=" + CANARY, "x"],
        ["-dev-root-token-id=" + CANARY],
        ["server", "-dev-root-token=" + CANARY],
        ["read", "-token=" + CANARY, "x"],
        ["read", "-format=" + CANARY, "x"],
        ["operator", "generate-root", "-decode=" + CANARY, "-otp=" + CANARY + "x"],
    ],
)
def test_threat_aud_08_no_error_repeats_a_value(words: list[str], run: Run) -> None:
    done = run(*words, VAULT_ADDR="http://127.0.0.1:1")
    assert done.code != 0
    assert CANARY not in done.out + done.err


def test_a_token_that_no_header_can_carry_is_refused_unseen(run: Run) -> None:
    done = run("read", "x", VAULT_TOKEN=f"{CANARY}\r\nX: y", VAULT_ADDR="http://127.0.0.1:1")
    assert done.code == 1
    assert "VAULT_TOKEN holds characters" in done.err
    assert CANARY not in done.err


def test_nobody_is_asked_where_nobody_can_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    done = run("operator", "unseal", VAULT_ADDR="http://127.0.0.1:1")
    assert done.code == 1
    assert "no terminal to ask for the unseal key" in done.err


def test_headers_of_the_protocol_cannot_be_set(run: Run) -> None:
    done = run("read", "-header=X-Vault-Token=a", "x", VAULT_ADDR="http://127.0.0.1:1")
    assert "X-Vault-" in done.err


# Against a small server of our own


class _Handler(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, str, dict[str, str]]]] = []
    location = ""

    def do_GET(self) -> None:
        self.seen.append((self.command, self.path, dict(self.headers)))
        self.send_response(307 if self.location else 200)
        if self.location:
            self.send_header("Location", self.location)
        self.end_headers()
        if not self.location:
            self.wfile.write(b'{"data": {"a": "esc\\u001b[31m"}}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, str]]]:
    monkeypatch.setattr(_Handler, "seen", [])
    monkeypatch.setattr(_Handler, "location", "")
    return _Handler.seen


@pytest.fixture
def plain() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), ("vault.test",))


@pytest.fixture
def tls(certificates: Certificates) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()


Seen = list[tuple[str, str, dict[str, str]]]


def test_flags_become_headers(plain: str, seen: Seen, run: Run) -> None:
    done = run(
        *("read", "-namespace=a/b", "-wrap-ttl=60", "-header=X-Ours=1", "kv/a b?c"),
        VAULT_ADDR=plain,
        VAULT_TOKEN="t",
    )
    assert done.code == 0
    ((method, path, headers),) = seen
    assert (method, path) == ("GET", "/v1/kv/a%20b%3Fc")
    wanted = {"X-Vault-Namespace": "a/b", "X-Vault-Wrap-TTL": "60", "X-Ours": "1"}
    wanted |= {"X-Vault-Token": "t", "X-Vault-Request": "true"}
    assert wanted.items() <= headers.items()


def test_a_table_cannot_steer_the_terminal(plain: str, seen: Seen, run: Run) -> None:
    done = run("read", "x", VAULT_ADDR=plain)
    assert "\x1b" not in done.out
    assert "esc\\x1b[31m" in done.out


def test_threat_tls_01_a_server_that_nobody_vouches_for_is_refused(
    tls: str, seen: Seen, run: Run
) -> None:
    done = run("read", "x", VAULT_ADDR=tls, VAULT_TOKEN=CANARY)
    assert done.code == 2
    assert "certificate does not verify" in done.err
    assert seen == []


def test_threat_tls_01_a_certificate_of_another_name_is_refused(
    tls: str, seen: Seen, certificates: Certificates, run: Run
) -> None:
    at = {"VAULT_ADDR": tls, "VAULT_CACERT": str(certificates.ca)}
    assert run("read", "x", "-tls-server-name=other.test", **at).code == 2
    assert seen == []
    assert run("read", "x", "-tls-server-name=vault.test", **at).code == 0


@pytest.mark.parametrize(
    "flag", ["-ca-cert={0.ca}", "-ca-path={0.ca.parent}/ca", "-tls-skip-verify"]
)
def test_a_server_is_trusted_by_ca_or_on_demand(
    flag: str, tls: str, seen: Seen, certificates: Certificates, run: Run
) -> None:
    directory = certificates.ca.parent / "ca"
    directory.mkdir(exist_ok=True)
    (directory / "ours.pem").write_bytes(certificates.ca.read_bytes())
    assert run("read", flag.format(certificates), "x", VAULT_ADDR=tls).code == 0


def test_the_token_follows_no_redirect_to_another_host(plain: str, seen: Seen, run: Run) -> None:
    _Handler.location = "http://elsewhere.invalid/v1/x"
    done = run("read", "x", VAULT_ADDR=plain, VAULT_TOKEN="t")
    assert done.code == 2
    assert "the token is not sent there" in done.err
    assert len(seen) == 1


def test_no_redirect_from_https_to_http(
    tls: str, seen: Seen, certificates: Certificates, run: Run
) -> None:
    _Handler.location = "http://127.0.0.1:1/v1/x"
    done = run("read", "x", VAULT_ADDR=tls, VAULT_CACERT=str(certificates.ca))
    assert "from https to http" in done.err


@pytest.mark.parametrize("address", ["ftp://x", "x:8200", "http://", "http://u:p@h", "http://h:x"])
def test_an_address_must_be_one(address: str, run: Run) -> None:
    assert run("status", VAULT_ADDR=address).code == 1


# The token file


def test_a_symbolic_link_in_its_place_is_replaced_not_followed(
    plain: str, seen: Seen, run: Run, tmp_path: Path
) -> None:
    from undercroft.cli import token_file

    target = tmp_path / "target"
    target.write_text("untouched")
    (tmp_path / ".vault-token").symlink_to(target)
    run("status", VAULT_ADDR=plain)  # sets HOME
    token_file.store("new")
    assert target.read_text() == "untouched"
    assert not (tmp_path / ".vault-token").is_symlink()
    assert token_file.current_token() == "new"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".v")] == [
        ".vault-token"
    ]


# The server command, as far as it goes without running one


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no configuration"),
        (["-config=/nowhere"], "/nowhere: no such file"),
        (["-dev", "-config=x"], "-dev takes no -config"),
        (["-dev-root-token-id=x"], "-dev-root-token-id goes with -dev"),
        (["-dev", "-log-level=loud"], "supported: trace, debug"),
        (["-dev", "-dev-listen-address=a b"], "must be an address"),
        (["-dev-tls", "-dev-tls-cert-dir=/nowhere"], "/nowhere: no such directory"),
    ],
)
def test_a_server_that_cannot_start_says_why(words: list[str], told: str, run: Run) -> None:
    done = run("server", *words)
    assert done.code == 1
    assert told in done.err


def test_every_problem_of_a_configuration_has_a_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "u.hcl"
    file.write_text('workers = 0\nstorage "s3" {}\n')
    done = run("server", f"-config={file}")
    assert done.code == 1
    assert f"{file}:1: workers" in done.err
    assert f"{file}:2: storage" in done.err


def test_a_pid_file_belongs_to_one_server_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("left behind by one that was killed")
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644
        with pytest.raises(CommandError, match="a running server has"), pid_file(str(path)):
            pass
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_the_banner_has_what_scripts_look_for() -> None:
    text = banner("https://127.0.0.1:8200", "KEY", "TOKEN", ca=Path("/tmp/ca.pem"), stored=True)
    lines = text.splitlines()
    assert "Unseal Key: KEY" in lines
    assert "Root Token: TOKEN" in lines
    assert "    $ export VAULT_ADDR='https://127.0.0.1:8200'" in lines
    assert "    $ export VAULT_CACERT='/tmp/ca.pem'" in lines
