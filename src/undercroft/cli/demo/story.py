"""What the demo shows: a set of two clusters, its failover, and what became of the writes.

Everything runs for real: two process trees with TLS, unmodified clients, kill -9. With DEMO_KEEP=1
the servers stay; otherwise nothing is left behind.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from undercroft.cli.certificates import make_certificates
from undercroft.cli.demo.cluster import Cluster, DemoFailed

_SET: Final = "sys/replication"  # the paths of the founding API page
_POLICY: Final = """
path "secret/*" { capabilities = ["create", "read", "update", "list"] }
path "sys/replication/*" { capabilities = ["create", "read", "update", "delete", "sudo"] }
"""
_LOAD_SECONDS: Final = 4


def say(text: str = "") -> None:
    print(text, flush=True)


class Story:
    def __init__(self, directory: Path) -> None:
        certificates = make_certificates(directory)
        self.lisbon = Cluster("lisbon", directory / "lisbon", certificates)
        self.osaka = Cluster("osaka", directory / "osaka", certificates)
        self._step = 0
        self._password = os.urandom(12).hex()
        self._acknowledged: list[str] = []
        self._figures: list[tuple[str, str]] = []
        self.ada = ""  # her token at osaka

    def step(self, text: str, result: str) -> None:
        self._step += 1
        say(f"{self._step:2}. {text:<60} {result}")

    def figure(self, name: str, value: str) -> None:
        self._figures.append((name, value))

    def run(self) -> None:
        say("Undercroft: two clusters, replicated; one fails, the other takes over.\n")
        self._start()
        self._activate()
        self._use()
        self._load()
        self._fail_over()
        self._bring_back()
        self._sum_up()

    def _start(self) -> None:
        for cluster in (self.lisbon, self.osaka):
            took = cluster.start()
            cluster.initialize()
            self.step(f"start {cluster.name}: on disk, TLS, own keys", f"ready in {took:.2f} s")
        lisbon, user = self.lisbon, {"password": self._password, "token_policies": "app"}
        lisbon.expect(204, "POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        lisbon.expect(204, "PUT", "sys/policies/acl/app", {"policy": _POLICY})
        lisbon.expect(204, "POST", "sys/auth/userpass", {"type": "userpass"})
        lisbon.expect(204, "POST", "auth/userpass/users/ada", user)
        self.step("lisbon: mount KV v2, write a policy, create the user ada", "done")
        client = lisbon.client(lisbon.root_token)
        for number in range(200):
            client.secrets.kv.v2.create_or_update_secret(f"app/{number}", {"number": number})
        self.step("lisbon: write 200 secrets with hvac", "done")

    def _activate(self) -> None:
        made = self.lisbon.expect(200, "POST", f"{_SET}/primary/enable", {})
        self.step("lisbon: POST primary/enable", f"200, {len(made['warnings'])} warning")
        token = self.lisbon.expect(200, "GET", f"{_SET}/primary/secondary-token?id=osaka")
        wrap = token["wrap_info"]
        self.step("lisbon: GET primary/secondary-token?id=osaka", f"wrapped, {wrap['ttl']} s")
        body = {"token": wrap["token"], "ca_cert": self.lisbon.ca.read_text()}
        self.osaka.expect(200, "POST", f"{_SET}/secondary/enable", body)
        took = self.osaka.until(
            lambda: self.osaka.replication().get("state") == "stream-wals", "follow"
        )
        self.step("osaka: POST secondary/enable, wait for stream-wals", f"{took:.2f} s")

    def _log_in(self, cluster: Cluster) -> str:
        login = {"password": self._password}
        made = cluster.expect(200, "POST", "auth/userpass/login/ada", login, token="")
        token: str = made["auth"]["client_token"]
        return token

    def _use(self) -> None:
        self.ada = self._log_in(self.osaka)
        self.step("osaka: ada logs in there, as she would at lisbon", "policies app, default")
        client = self.osaka.client(self.ada)
        found = client.secrets.kv.v2.read_secret_version("app/7", raise_on_deleted_version=True)[
            "data"
        ]["data"]
        self.step("osaka: read with hvac what lisbon wrote", f"app/7 = {found}")
        started = time.monotonic()
        client.secrets.kv.v2.create_or_update_secret("app/from-osaka", {"written": "at osaka"})
        took = (time.monotonic() - started) * 1000
        here = client.secrets.kv.v2.read_secret_version(
            "app/from-osaka", raise_on_deleted_version=True
        )
        if here["data"]["data"] != {"written": "at osaka"}:
            raise DemoFailed("osaka did not read its own write")
        self.step("osaka: write: runs at lisbon, is read here at once", f"{took:.0f} ms")
        self.figure("write through the secondary, read there", f"{took:.0f} ms")

    def _load(self) -> None:
        """Writes at the primary while the lag is shown."""
        stop = threading.Event()
        count = 0

        def write() -> None:
            nonlocal count
            client = self.lisbon.client(self.lisbon.root_token)
            while not stop.is_set():
                client.secrets.kv.v2.create_or_update_secret(f"load/{count}", {"n": count})
                self._acknowledged.append(f"load/{count}")
                count += 1

        writer = threading.Thread(target=write)
        writer.start()
        say(f"\n    lisbon is written to, osaka follows, {_LOAD_SECONDS} s:")
        before, worst = 0, 0
        for second in range(_LOAD_SECONDS):
            time.sleep(1)
            status = self.osaka.replication()
            behind, lag_ms = status["lag_records"] or 0, status["lag_ms"] or 0
            worst = max(worst, behind)
            say(
                f"    {second + 1} s: {count - before:5} writes, osaka at record "
                f"{status['last_remote_wal']}, {behind} behind, lag {lag_ms} ms"
            )
            before = count
        stop.set()
        writer.join()
        say()
        self.step(f"lisbon: {count} writes while osaka follows", f"at most {worst} records behind")

    def _fail_over(self) -> None:
        """One write reaches nobody else before lisbon dies."""
        self.osaka.until(self._level, "catch up")
        os.kill(self.lisbon.replicator(), signal.SIGSTOP)  # as if the network were cut
        self.lisbon.client(self.lisbon.root_token).secrets.kv.v2.create_or_update_secret(
            "app/lost", {"only": "lisbon had this"}
        )
        self.lisbon.kill()
        self.step("lisbon: a last write that never leaves it; kill -9", "lisbon is gone")
        started = time.monotonic()
        promoted = self.osaka.expect(200, "POST", f"{_SET}/secondary/promote", {}, token=self.ada)
        self.osaka.expect(200, "POST", "secret/data/app/first", {"data": {"by": "osaka"}}, self.ada)
        took = (time.monotonic() - started) * 1000
        self.step("osaka: POST secondary/promote, first write accepted", f"{took:.0f} ms")
        self.figure("promote to first accepted write", f"{took:.0f} ms")
        for text in promoted["warnings"][1:]:
            say(f"    osaka says: {text}")
        client = self.osaka.client(self.ada)
        for name in self._acknowledged:
            client.secrets.kv.v2.read_secret_version(name, raise_on_deleted_version=True)
        count = len(self._acknowledged)
        self.step("osaka: read every write that it had acknowledged", f"all {count}")

    def _level(self) -> bool:
        one, other = self.lisbon.replication(), self.osaka.replication()
        return bool(other["last_remote_wal"] == one["last_performance_wal"])

    def _bring_back(self) -> None:
        lisbon, osaka = self.lisbon, self.osaka
        lisbon.start()
        lisbon.until(lambda: lisbon.replication().get("fenced"), "be fenced")
        refused, answer = lisbon.call("POST", "secret/data/app/x", {"data": {}})
        if refused != 503:
            raise DemoFailed(f"a fenced primary took a write: {answer}")
        self.step("lisbon: started again, learns of the new epoch", "fenced: writes answer 503")
        lisbon.expect(200, "POST", f"{_SET}/primary/demote", {})
        wrap = osaka.expect(200, "GET", f"{_SET}/primary/secondary-token?id=lisbon", None, self.ada)
        body = {"token": wrap["wrap_info"]["token"], "ca_cert": osaka.ca.read_text()}
        lisbon.expect(200, "POST", f"{_SET}/secondary/update-primary", body)
        took = lisbon.until(
            lambda: lisbon.replication().get("state") == "stream-wals", "follow again"
        )
        self.step("lisbon: demote, update-primary; only differences travel", f"{took:.2f} s")
        lisbon.until(
            lambda: lisbon.replication()["merkle_root"] == osaka.replication()["merkle_root"],
            "have the same root",
        )
        self.step("both: digest roots", f"equal, {osaka.replication()['merkle_root'][:16]}…")
        gone = lisbon.call("GET", "secret/data/app/lost")[0]
        kept = lisbon.expect(200, "GET", "sys/replication/quarantine")["data"]
        named = [f"{e['mount']}{e['path']}" for e in kept["key_info"].values()]
        self.step(
            "lisbon: the write that only it had",
            f"read: {gone}; in quarantine: {', '.join(named)}",
        )
        entry = lisbon.expect(200, "GET", f"sys/replication/quarantine/{kept['keys'][0]}")["data"]
        say(f"    quarantined at epoch {entry['epoch']}, written {entry['written']}: nothing lost")
        self.figure("writes that were acknowledged and lost in silence", "0")

    def _sum_up(self) -> None:
        say("\nWhat this showed:")
        for name, value in self._figures:
            say(f"    {name:<52} {value}")

    def close(self) -> None:
        for cluster in (self.lisbon, self.osaka):
            cluster.kill()

    def say_kept(self, directory: Path) -> None:
        say("\nThe servers go on running (DEMO_KEEP=1):")
        tokens = {"osaka": self.ada, "lisbon": self.lisbon.root_token}
        for cluster in (self.osaka, self.lisbon):
            mode = cluster.replication()["mode"]
            say(f"    {cluster.name} ({mode}): {cluster.address}  token {tokens[cluster.name]}")
        say(f"    VAULT_CACERT={self.lisbon.ca}  ada's password: {self._password}")
        pids = " ".join(str(c.pid) for c in (self.osaka, self.lisbon))
        say(f"    stop them: kill {pids}; then remove {directory}")


def demo() -> int:
    keep = os.environ.get("DEMO_KEEP", "") not in ("", "0")
    directory = Path(tempfile.mkdtemp(prefix="undercroft-demo-"))
    story: Any = None
    finished = False
    try:
        story = Story(directory)
        story.run()
        finished = True
    except DemoFailed as failed:
        say(f"\nThe demo failed: {failed}")
    finally:
        if finished and keep:
            story.say_kept(directory)
        else:
            if story is not None:
                story.close()
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if finished else 1
