"""Terminals in which the commands of a page run, and the servers that they talk to."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.docs.shown import Block, Command
from tests.e2e.tls import tls_server
from tests.support.undercroft import Undercroft, dev_server, disk_server, free_port, until

ROOT = Path(__file__).parents[2]
SHOWN_ADDRESS = "127.0.0.1:8200"
COMMAND_SECONDS = 60


class Terminal:
    """A directory and an environment; exported variables last from command to command.

    The pages' address becomes that of a free port, in commands and files; what is printed is
    turned back.
    """

    def __init__(self, directory: Path, address: str, variables: dict[str, str]) -> None:
        self.directory = directory
        self.address = address
        self._state = directory / f".{id(self)}.env"
        self._state.touch()
        self._servers: list[subprocess.Popen[bytes]] = []
        programs = directory / ".bin"
        programs.mkdir(exist_ok=True)
        ours = programs / "undercroft"
        ours.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m undercroft "$@"\n')
        ours.chmod(0o755)
        self._environment = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(directory),
            "BAO_ADDR": f"http://{address}",
            "VAULT_ADDR": f"http://{address}",  # hvac reads these two
            **variables,
        }

    def put(self, block: Block) -> None:
        """A file that the page shows."""
        text = "".join(f"{line}\n" for line in block.lines)
        (self.directory / block.value).write_text(text.replace(SHOWN_ADDRESS, self.address))

    def run(self, command: Command) -> None:
        """Fails when it prints anything else than the page shows."""
        text = command.text.replace(SHOWN_ADDRESS, self.address)
        if text.startswith("undercroft server"):
            self._serve(command, text)
            return
        done = subprocess.run(
            [
                "bash",
                "-o",
                "pipefail",
                "-c",
                f". {self._state}\n{text}\ncode=$?; export -p >{self._state}; exit $code",
            ],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert (done.returncode != 0) == command.may_fail, f"{command.at}: {text}\n{done.stdout}"
        self._compare(command, done.stdout)

    def _compare(self, command: Command, output: str) -> None:
        output = output.replace(self.address, SHOWN_ADDRESS)
        assert command.matches(output), f"{command.at}: {command.text}\nprints\n{output}"

    def _serve(self, command: Command, text: str) -> None:
        """It runs on, as in a terminal of its own; the lines shown are among those of its log."""
        log = self.directory / f"server-{len(self._servers)}.log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                ["bash", "-c", f". {self._state}\nexec {text}"],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._servers.append(server)
        until(lambda: server.poll() is not None or self._answers())
        if command.may_fail:
            assert server.wait(COMMAND_SECONDS) != 0
            self._compare(command, log.read_text())
        else:
            assert server.poll() is None, f"{command.at}: {text}\n{log.read_text()}"
            shown = Command(command.text, ("…", *command.lines, "…"), command.at)
            self._compare(shown, log.read_text())

    def _answers(self) -> bool:
        host, _, port = self.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=1):
            return True

    def close(self) -> None:
        for server in self._servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _address(server: Undercroft) -> str:
    return f"{server.client.host}:{server.client.port}"


def _login(token: str) -> dict[str, str]:
    return {"BAO_TOKEN": token, "VAULT_TOKEN": token}


@contextlib.contextmanager
def terminals(directory: Path, kinds: set[str]) -> Iterator[dict[str, Terminal]]:
    """One for each kind of mark, with the servers of that kind running."""
    made: dict[str, Terminal] = {}
    with contextlib.ExitStack() as stack:
        if "dev" in kinds:
            server = stack.enter_context(dev_server(directory))
            made["dev"] = Terminal(directory, _address(server), _login("root"))
        if "server" in kinds:
            audit = f'audit "file" "main" {{ options {{ file_path = "{directory}/audit.log" }} }}'
            server = stack.enter_context(disk_server(directory, audit))
            server.client.request("POST", "sys/mounts/secret", {"type": "kv-v2"})
            made["server"] = Terminal(directory, _address(server), _login(server.client.token))
        if "disk" in kinds:
            made["disk"] = Terminal(directory, f"127.0.0.1:{free_port()}", {})
        for kind in sorted(kinds & {"primary", "secondary"}):
            home = directory / f".{kind}"
            home.mkdir()
            server = stack.enter_context(tls_server(home))
            shutil.copy(home / "ca.pem", directory / f"{kind}-ca.pem")
            address = f"https://{_address(server)}"
            variables = {
                "BAO_ADDR": address,
                "BAO_CACERT": str(home / "ca.pem"),
                **_login(server.client.token),
            }
            made[kind] = Terminal(directory, _address(server), variables)
        for terminal in made.values():
            stack.callback(terminal.close)
        yield made
