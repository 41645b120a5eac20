"""Sets of real clusters, and what an operator calls on them, for the tests of this folder."""

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.replication.pair import join, replicating_pair, status
from tests.support.undercroft import Answer, Client, Undercroft, disk_server, until

AT = "sys/replication/performance"


def ok(client: Client, path: str, body: Any = None) -> Any:
    answer = client.request("POST", f"{AT}/{path}", body or {})
    assert answer.status == 200, (path, answer)
    return answer.body


def token_for(primary: Client, secondary_id: str) -> str:
    wrapped = ok(primary, "primary/secondary-token", {"id": secondary_id})
    return str(wrapped["wrap_info"]["token"])


def write(client: Client, name: str, value: Any = 1) -> None:
    answer = client.request("POST", f"secret/data/{name}", {"data": {"value": value}})
    assert answer.status == 200, answer


def outgrow_log(client: Client) -> None:
    """So much that the digests are written, and what a short log had before may go."""
    for _ in range(3):
        write(client, "large", "x" * (23 << 20))
    write(client, "last")
    write(client, "last")


def read(client: Client, name: str) -> Any:
    answer = client.request("GET", f"secret/data/{name}")
    return answer.body["data"]["data"]["value"] if answer.status == 200 else answer.status


def follows(secondary: Client, primary: Client) -> bool:
    mine, theirs = status(secondary), status(primary)
    return bool(
        mine["state"] == "stream-wals"
        and mine["connection_state"] == "ready"
        and mine["last_remote_wal"] == theirs["last_performance_wal"]
        and mine["merkle_root"] == theirs["merkle_root"]
        and mine["merkle_root_wal"] == theirs["merkle_root_wal"] == mine["last_remote_wal"]
    )


def settle(secondary: Client, primary: Client) -> None:
    until(lambda: follows(secondary, primary))


@contextlib.contextmanager
def triple(directory: Path) -> Iterator[tuple[Undercroft, Undercroft, Undercroft]]:
    """A primary and two secondaries, `osaka` and `perth`."""
    with replicating_pair(directory) as pair:
        (directory / "third").mkdir()
        with disk_server(directory / "third") as third:
            join(pair.primary, third, "perth")
            yield pair.primary_server, pair.secondary_server, third


def errors(answer: Answer) -> str:
    """The text of a refusal; empty for an answer that is none."""
    return "; ".join(answer.body.get("errors") or ()) if isinstance(answer.body, dict) else ""


def warnings(answer: Answer) -> str:
    return "; ".join(answer.body.get("warnings") or ())


def allowed(client: Client, name: str, policy: str) -> str:
    """A token with that policy alone."""
    made = client.request("POST", f"sys/policies/acl/{name}", {"policy": policy})
    assert made.status == 204, made
    answer = client.request(
        "POST", "auth/token/create", {"policies": [name], "no_default_policy": True}
    )
    return str(answer.body["auth"]["client_token"])


def asked_token(client: Client, query: str) -> Answer:
    """Of the founding page's secondary-token, as it says: GET, with a query."""
    return client.request("GET", f"sys/replication/primary/secondary-token?{query}")


def claims_of(token: str) -> dict[str, Any]:
    """What an activation token in JWT form says."""
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))
