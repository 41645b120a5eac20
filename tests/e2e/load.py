"""Writers that remember what was acknowledged, and check it afterwards."""

import contextlib
import http.client
import json
import random
import threading
from dataclasses import dataclass, field

from tests.support.undercroft import Client


@dataclass
class Ledger:
    """What one writer knows of its own keys; no other writer touches them."""

    name: str
    # key -> (version, value) acknowledged last; a missing key was never acknowledged
    acknowledged: dict[str, tuple[int, str]] = field(default_factory=dict)
    # key -> values of the writes since then whose answers never came: each may or may not stand
    unknown: dict[str, list[str]] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    wrapped: list[str] = field(default_factory=list)
    unwrapped: list[str] = field(default_factory=list)


class MixedLoad:
    """Threads that write KV v2, create and revoke tokens, wrap and unwrap, until stopped."""

    def __init__(self, client: Client, ledgers: list[Ledger], seed: int) -> None:
        self._client = client
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(ledger, random.Random(seed + i)), daemon=True)
            for i, ledger in enumerate(ledgers)
        ]
        self.operations = 0

    def __enter__(self) -> "MixedLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, ledger: Ledger, dice: random.Random) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection(self._client.host, self._client.port, 10)
            with (
                contextlib.closing(connection),
                contextlib.suppress(OSError, http.client.HTTPException),
            ):
                while not self._stop.is_set():
                    self._one(ledger, dice, connection)
                    self.operations += 1

    def _one(
        self, ledger: Ledger, dice: random.Random, connection: http.client.HTTPConnection
    ) -> None:
        kind = dice.choices(("write", "create", "revoke", "wrap", "unwrap"), (10, 3, 1, 1, 1))[0]
        if kind == "write":
            self._write(ledger, dice, connection)
        elif kind == "create":
            made = self._call(connection, "auth/token/create", {"policies": ["default"]})
            if made is not None:
                ledger.tokens.append(made["auth"]["client_token"])
        elif kind == "revoke" and ledger.tokens:
            token = ledger.tokens.pop()  # from here on it may be gone, acknowledged or not
            if self._call(connection, "auth/token/revoke", {"token": token}) is not None:
                ledger.revoked.append(token)
        elif kind == "wrap":
            made = self._call(
                connection, "sys/wrapping/wrap", {"v": "1"}, {"X-Vault-Wrap-TTL": "600"}
            )
            if made is not None:
                ledger.wrapped.append(made["wrap_info"]["token"])
        elif kind == "unwrap" and ledger.wrapped:
            token = ledger.wrapped.pop()
            if self._call(connection, "sys/wrapping/unwrap", {"token": token}) is not None:
                ledger.unwrapped.append(token)

    def _write(
        self, ledger: Ledger, dice: random.Random, connection: http.client.HTTPConnection
    ) -> None:
        key = f"{ledger.name}/{dice.randrange(50)}"
        value = f"{dice.getrandbits(64):x}"
        ledger.unknown.setdefault(key, []).append(value)
        made = self._call(connection, f"secret/data/{key}", {"data": {"value": value}})
        if made is not None:
            ledger.acknowledged[key] = (made["data"]["version"], value)
            del ledger.unknown[key]

    def _call(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        body: dict[str, object],
        headers: dict[str, str] | None = None,
    ) -> dict[str, dict[str, object]] | None:
        """The answer; None when the server says that nothing was done or is not sure."""
        sent = {"X-Vault-Token": self._client.token, **(headers or {})}
        connection.request("POST", f"/v1/{path}", json.dumps(body), sent)
        response = connection.getresponse()
        text = response.read()
        if response.status >= 500:
            return None
        assert response.status in (200, 204), (path, response.status, text)
        return json.loads(text) if text else {}


def check(client: Client, ledger: Ledger) -> None:
    """Every acknowledged write is there; what was never answered is there whole or not at all."""
    for key, (version, value) in ledger.acknowledged.items():
        found = client.request("GET", f"secret/data/{key}")
        assert found.status == 200, (key, found)
        now = (found.body["data"]["metadata"]["version"], found.body["data"]["data"]["value"])
        allowed = {(version, value)}
        for later in range(1, len(ledger.unknown.get(key, [])) + 1):
            allowed |= {(version + later, unanswered) for unanswered in ledger.unknown[key]}
        assert now in allowed, f"{key}: acknowledged {(version, value)}, found {now}"
        ledger.acknowledged[key] = now
    for key, values in ledger.unknown.items():
        if key not in ledger.acknowledged:
            found = client.request("GET", f"secret/data/{key}")
            if found.status != 404:
                value = found.body["data"]["data"]["value"]
                version = found.body["data"]["metadata"]["version"]
                assert value in values
                assert version <= len(values)
                ledger.acknowledged[key] = (version, value)
    ledger.unknown.clear()
    for token in ledger.tokens:
        assert client.request("GET", "auth/token/lookup-self", token=token).status == 200
    for token in ledger.revoked:
        assert client.request("GET", "auth/token/lookup-self", token=token).status == 403
    for token in ledger.unwrapped:
        assert client.request("POST", "sys/wrapping/unwrap", {"token": token}).status == 400
    del ledger.revoked[:], ledger.unwrapped[:]
    del ledger.tokens[:-20]
