"""The command `undercroft server` as an operator meets it: start, signals, dead children, ports."""

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.tls import tls_server
from tests.support.undercroft import (
    Undercroft,
    dev_server,
    disk_server,
    free_port,
    start,
    until,
    write_config,
)
from undercroft.cli.certificates import make_certificates

AUDIT = """
audit "file" "main" {{
  options {{
    file_path = "{path}"
  }}
}}
"""


def run_server(config: Path) -> subprocess.CompletedProcess[str]:
    """A server that is expected to refuse to run."""
    command = [sys.executable, "-m", "undercroft", "server", f"-config={config}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


def peer_serial(server: Undercroft) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", server.client.port), timeout=10) as raw,
        context.wrap_socket(raw) as wrapped,
    ):
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def test_a_development_server_is_ready_in_under_two_seconds(tmp_path: Path) -> None:
    begun = time.monotonic()
    with dev_server(tmp_path) as server:
        assert time.monotonic() - begun < 2
        assert server.client.request("GET", "secret/config").status == 200


def test_sigterm_answers_what_is_in_flight_and_exits_with_0(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        kv = {"type": "kv", "options": {"version": "1"}}
        assert server.client.request("POST", "sys/mounts/kv", kv).status == 204
        statuses: list[int] = []
        broken: list[str] = []
        running, answered = threading.Event(), threading.Event()

        def load(name: int) -> None:
            for i in range(100_000):
                with contextlib.closing(
                    http.client.HTTPConnection("127.0.0.1", server.client.port, timeout=20)
                ) as connection:
                    try:
                        connection.connect()
                    except ConnectionError:
                        return  # the port is closed
                    try:
                        connection.request(
                            "PUT",
                            f"/v1/kv/{name}/{i}",
                            b'{"a":1}',
                            {"X-Vault-Token": server.client.token},
                        )
                        response = connection.getresponse()
                        response.read()
                    except (OSError, http.client.HTTPException) as error:
                        if not running.is_set():
                            return  # a connection that nobody had accepted yet
                        broken.append(repr(error))
                        return
                    statuses.append(response.status)
                    if len(statuses) > 20:
                        answered.set()

        running.set()
        threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        assert answered.wait(20)
        running.clear()
        assert server.stop() == 0
        for thread in threads:
            thread.join(30)
        assert not broken
        assert set(statuses) == {204}
        assert "stopped" in server.log.read_text()


def test_sighup_loads_the_certificate_anew(tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        before = peer_serial(server)
        make_certificates(tmp_path)  # over the old files
        assert peer_serial(server) == before
        server.process.send_signal(signal.SIGHUP)
        until(lambda: peer_serial(server) != before, server)
        assert server.client.request("GET", "sys/health").status == 200  # under the new CA


def test_sighup_with_a_broken_certificate_keeps_the_old_one(tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        before = peer_serial(server)
        (tmp_path / "cert.pem").write_text("not a certificate")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "kept the old certificates" in server.log.read_text(), server)
        assert peer_serial(server) == before


def test_sighup_takes_the_new_log_level(tmp_path: Path) -> None:
    with disk_server(tmp_path, 'log_level = "error"') as server:
        config = tmp_path / "undercroft.hcl"
        config.write_text(config.read_text().replace('"error"', '"info"'))
        assert "unsealed" not in server.log.read_text()
        server.process.send_signal(signal.SIGHUP)

        def told() -> bool:
            assert server.client.request("PUT", "sys/seal").status in (204, 503)
            server.unseal()
            return "unsealed" in server.log.read_text()

        until(told, server)


def test_sighup_reopens_the_audit_file_after_a_rotation(tmp_path: Path) -> None:
    audit = tmp_path / "audit.log"
    with disk_server(tmp_path, AUDIT.format(path=audit)) as server:
        assert server.client.request("GET", "sys/mounts").status == 200
        audit.rename(tmp_path / "audit.log.1")
        server.process.send_signal(signal.SIGHUP)

        def written() -> bool:
            assert server.client.request("GET", "sys/auth").status == 200
            return audit.exists() and b"sys/auth" in audit.read_bytes()

        until(written, server)
        rotated = (tmp_path / "audit.log.1").stat().st_size
        assert server.client.request("GET", "sys/auth").status == 200
        assert (tmp_path / "audit.log.1").stat().st_size == rotated


@pytest.mark.parametrize("name", ["worker-0", "writer"])
def test_a_killed_child_is_replaced_logged_and_requests_go_on(tmp_path: Path, name: str) -> None:
    with disk_server(tmp_path) as server:
        killed = server.children()[name]
        os.kill(killed, signal.SIGKILL)
        until(lambda: server.children().get(name, killed) != killed, server)
        until(lambda: server.client.request("POST", "auth/token/create", {}).status == 200, server)
        assert server.client.request("GET", "sys/health").status == 200
        said = [line for line in server.log.read_text().splitlines() if "started again" in line]
        assert len(said) == 1
        assert name in said[0]
        assert "signal 9" in said[0]


def test_the_children_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        children = server.children().values()
        server.process.kill()
        server.process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def test_a_second_server_on_the_same_data_directory_refuses(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        other = tmp_path / "other"
        other.mkdir()
        config = write_config(other, free_port())
        config.write_text(config.read_text().replace(str(other / "data"), str(tmp_path / "data")))
        refused = run_server(config)
        assert refused.returncode == 1
        assert f"the data directory {tmp_path / 'data'} is in use" in refused.stderr
        assert f"pid {server.process.pid}" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert server.client.request("POST", "auth/token/create", {}).status == 200


def test_a_port_in_use_is_refused_by_name(tmp_path: Path) -> None:
    with dev_server(tmp_path) as server:
        refused = run_server(write_config(tmp_path, server.client.port))
        assert refused.returncode == 1
        assert f"cannot listen on 127.0.0.1:{server.client.port}" in refused.stderr
        assert "Address already in use" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_mistake_in_the_configuration_is_told_with_file_and_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, free_port())
    lines = config.read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "tls_disable" in text)
    config.write_text(config.read_text().replace("= true", '= "perhaps"'))
    refused = run_server(config)
    assert refused.returncode == 1
    assert f"{config}:{line}" in refused.stderr
    assert "tls_disable" in refused.stderr


def test_an_unknown_key_is_a_warning_with_file_and_line(tmp_path: Path) -> None:
    with disk_server(tmp_path, 'colour = "blue"') as server:
        config = tmp_path / "undercroft.hcl"
        lines = config.read_text().splitlines()
        line = next(i for i, text in enumerate(lines, 1) if "colour" in text)
        assert f"{config}:{line}" in server.log.read_text()


def test_threat_seal_05_every_file_is_its_owners_whatever_the_umask(tmp_path: Path) -> None:
    audit = tmp_path / "audit" / "audit.log"
    audit.parent.mkdir()
    data = tmp_path / "data"
    old = os.umask(0)
    try:
        port = free_port()
        config = write_config(tmp_path, port, AUDIT.format(path=audit))
        data.rmdir()  # the server makes it
        server = start([f"-config={config}"], tmp_path, port)
    finally:
        os.umask(old)
    try:
        client = server.client
        until(lambda: client.request("GET", "sys/seal-status").status == 200, server)
        made = client.request("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        client.token, server.keys = made.body["root_token"], made.body["keys_base64"]
        server.unseal()
        assert client.request("POST", "auth/token/create", {}).status == 200
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        entries = [*data.rglob("*"), audit]
        assert any(path.name == "data.mdb" for path in entries)
        for path in entries:
            wanted = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    finally:
        server.kill()


def test_a_process_that_holds_keys_leaves_no_core_dump(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        children = server.children()
        assert "writer" in children
        for pid in children.values():
            limits = Path(f"/proc/{pid}/limits").read_text()
            core = next(line for line in limits.splitlines() if line.startswith("Max core file"))
            assert core.split()[4:6] == ["0", "0"]


def test_no_process_of_the_same_user_may_trace_one_that_holds_keys(tmp_path: Path) -> None:
    found: dict[str, bool] = {}

    def look() -> None:
        _drop_the_right_to_trace_anyone()
        with disk_server(tmp_path) as server, subprocess.Popen(["sleep", "60"]) as ordinary:
            found["ordinary"] = _readable(ordinary.pid)
            found.update({name: _readable(pid) for name, pid in server.children().items()})
            ordinary.kill()

    thread = threading.Thread(target=look)  # capabilities are a thread's own
    thread.start()
    thread.join()
    assert found.pop("ordinary")  # or the question would prove nothing
    assert "writer" in found
    assert not any(found.values())


def _drop_the_right_to_trace_anyone() -> None:
    """For what this thread starts from now on; a user who is not root has no such right anyway."""
    pr_capbset_drop, cap_sys_ptrace = 24, 19
    ctypes.CDLL(None).prctl(pr_capbset_drop, cap_sys_ptrace, 0, 0, 0)


def _readable(pid: int) -> bool:
    """The kernel asks the same before it lets one process trace another or read its memory."""
    script = f"open('/proc/{pid}/mem', 'rb')"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0 or "PermissionError" in run.stderr
    return run.returncode == 0
