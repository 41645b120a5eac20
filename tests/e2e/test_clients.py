"""The clients that people have, against the server as it is deployed: hvac and `bao`, over TLS."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac
import pytest

from tests.e2e.tls import tls_server
from tests.support.undercroft import Undercroft, until

AUDIT = """
audit "file" "main" {{
  options {{
    file_path = "{path}"
  }}
}}
"""
POLICY = 'path "secret/data/app/*" { capabilities = ["create", "read", "update", "patch"] }'


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undercroft]:
    directory = tmp_path_factory.mktemp("server")
    with tls_server(directory, AUDIT.format(path=directory / "audit.log")) as server:
        kv = {"type": "kv", "options": {"version": "2"}}
        assert server.client.request("POST", "sys/mounts/secret", kv).status == 204
        yield server


# hvac


@pytest.fixture(name="vault")
def _vault(server: Undercroft) -> Any:
    return hvac_client(server, server.client.token)


def hvac_client(server: Undercroft, token: str) -> Any:
    address = f"https://127.0.0.1:{server.client.port}"
    return hvac.Client(url=address, token=token, verify=str(server.client.ca_file))


def test_hvac_knows_the_state_of_the_server(vault: Any) -> None:
    assert vault.is_authenticated()
    assert vault.sys.is_initialized()
    assert not vault.sys.is_sealed()
    assert vault.sys.read_health_status(method="GET")["sealed"] is False
    assert vault.sys.read_health_status().status_code == 200
    assert vault.seal_status["t"] == 1
    assert vault.sys.read_seal_status()["initialized"] is True
    assert vault.sys.read_leader_status()["ha_enabled"] in (True, False)
    assert vault.sys.read_init_status() == {"initialized": True}


def test_hvac_walks_through_the_life_of_a_token(server: Undercroft, vault: Any) -> None:
    token = vault.auth.token
    made = token.create(policies=["default"], ttl="1h", meta={"team": "ops"}, display_name="walk")
    auth = made["auth"]
    assert auth["renewable"] is True
    assert auth["lease_duration"] == 3600
    own = hvac_client(server, auth["client_token"])
    assert own.auth.token.lookup_self()["data"]["meta"] == {"team": "ops"}
    assert own.auth.token.renew_self(increment="2h")["auth"]["client_token"] == own.token
    assert token.lookup(auth["client_token"])["data"]["display_name"] == "token-walk"
    assert token.lookup_accessor(auth["accessor"])["data"]["id"] == ""
    assert auth["accessor"] in token.list_accessors()["data"]["keys"]
    assert token.renew(auth["client_token"])["auth"]["policies"] == ["default"]
    assert token.renew_accessor(auth["accessor"])["auth"]["client_token"] == ""
    token.revoke_accessor(auth["accessor"])
    assert not own.is_authenticated()
    with pytest.raises(hvac.exceptions.Forbidden):
        own.auth.token.lookup_self()

    orphan = token.create_orphan(policies=["default"])["auth"]
    assert orphan["orphan"] is True
    token.revoke(orphan["client_token"])
    with pytest.raises(hvac.exceptions.Forbidden):
        token.lookup(orphan["client_token"])
    token.create_or_update_role("walker", allowed_policies=["default"])
    assert token.list_roles()["data"]["keys"] == ["walker"]
    assert token.read_role("walker")["data"]["allowed_policies"] == ["default"]
    assert token.create(role_name="walker", policies=["default"])["auth"]["policies"] == ["default"]
    token.delete_role("walker")
    batch = token.create(type="batch", policies=["default"])["auth"]
    assert batch["client_token"].startswith("b.")
    mine = hvac_client(server, token.create(policies=["default"])["auth"]["client_token"])
    mine.auth.token.revoke_self()
    assert not mine.is_authenticated()


def test_hvac_walks_through_kv_version_1(vault: Any) -> None:
    vault.sys.enable_secrets_engine("kv", path="one", options={"version": "1"})
    kv = vault.secrets.kv.v1
    kv.create_or_update_secret("a/b", {"k": "v"}, mount_point="one")
    assert kv.read_secret("a/b", mount_point="one")["data"] == {"k": "v"}
    assert kv.list_secrets("", mount_point="one")["data"]["keys"] == ["a/"]
    assert kv.list_secrets("a", mount_point="one")["data"]["keys"] == ["b"]
    kv.delete_secret("a/b", mount_point="one")
    with pytest.raises(hvac.exceptions.InvalidPath):
        kv.read_secret("a/b", mount_point="one")
    vault.sys.disable_secrets_engine("one")
    with pytest.raises((hvac.exceptions.InvalidPath, hvac.exceptions.Forbidden)):
        kv.read_secret("a/b", mount_point="one")


def test_hvac_walks_through_kv_version_2(vault: Any) -> None:
    kv = vault.secrets.kv.v2

    def read(**more: Any) -> Any:
        return kv.read_secret_version(path="walk/a", raise_on_deleted_version=True, **more)["data"]

    kv.configure(max_versions=5, cas_required=False)
    assert kv.read_configuration()["data"]["max_versions"] == 5
    assert kv.create_or_update_secret("walk/a", {"k": "1"}, cas=0)["data"]["version"] == 1
    with pytest.raises(hvac.exceptions.InvalidRequest):
        kv.create_or_update_secret("walk/a", {"k": "x"}, cas=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of hvac by itself
        assert kv.patch("walk/a", {"more": "2"})["data"]["version"] == 2
    assert read()["data"] == {"k": "1", "more": "2"}
    assert read(version=1)["data"] == {"k": "1"}
    kv.delete_latest_version_of_secret("walk/a")
    with pytest.raises(hvac.exceptions.InvalidPath):
        read()
    kv.undelete_secret_versions("walk/a", [2])
    assert read()["metadata"]["version"] == 2
    kv.delete_secret_versions("walk/a", [1])
    kv.destroy_secret_versions("walk/a", [1])
    kv.update_metadata("walk/a", max_versions=3, custom_metadata={"owner": "ops"})
    metadata = kv.read_secret_metadata("walk/a")["data"]
    assert metadata["custom_metadata"] == {"owner": "ops"}
    assert metadata["versions"]["1"]["destroyed"] is True
    assert kv.list_secrets("walk")["data"]["keys"] == ["a"]
    subkeys = vault.read("secret/subkeys/walk/a")["data"]["subkeys"]
    assert subkeys == {"k": None, "more": None}
    kv.delete_metadata_and_all_versions("walk/a")
    with pytest.raises(hvac.exceptions.InvalidPath):
        kv.read_secret_metadata("walk/a")


def test_hvac_binds_a_user_by_a_policy(server: Undercroft, vault: Any) -> None:
    vault.sys.create_or_update_policy("app", POLICY)
    assert "app" in vault.sys.list_policies()["data"]["policies"]
    assert vault.sys.read_policy("app")["data"]["rules"] == POLICY
    vault.sys.create_or_update_acl_policy("app", POLICY)
    assert vault.sys.read_acl_policy("app")["data"]["policy"] == POLICY
    assert "app" in vault.sys.list_acl_policies()["data"]["keys"]
    vault.sys.enable_auth_method("userpass", path="people")
    assert vault.sys.list_auth_methods()["data"]["people/"]["type"] == "userpass"
    vault.sys.tune_auth_method("people", default_lease_ttl="30m")
    tuned = vault.sys.read_auth_method_tuning("people")["data"]
    assert tuned["default_lease_ttl"] == 1800
    users = vault.auth.userpass
    users.create_or_update_user("ada", "first", policies="app", mount_point="people")
    assert users.list_user(mount_point="people")["data"]["keys"] == ["ada"]
    users.update_password_on_user("ada", "second", mount_point="people")
    ada = hvac_client(server, "")
    with pytest.raises(hvac.exceptions.InvalidRequest):
        ada.auth.userpass.login("ada", "first", mount_point="people")
    login = ada.auth.userpass.login("ada", "second", mount_point="people")
    assert login["auth"]["policies"] == ["app", "default"]
    assert login["auth"]["lease_duration"] == 1800
    kv = ada.secrets.kv.v2
    kv.create_or_update_secret("app/own", {"k": "v"})
    with pytest.raises(hvac.exceptions.Forbidden):
        kv.create_or_update_secret("other", {"k": "v"})
    assert vault.sys.get_capabilities(["secret/data/app/x"], token=ada.token)["data"][
        "secret/data/app/x"
    ] == ["create", "patch", "read", "update"]
    users.delete_user("ada", mount_point="people")
    vault.sys.disable_auth_method("people")
    assert not ada.is_authenticated()
    vault.sys.delete_policy("app")


def test_hvac_wraps_and_unwraps_once(server: Undercroft, vault: Any) -> None:
    made = vault.auth.token.create(policies=["default"], wrap_ttl="5m")
    token = made["wrap_info"]["token"]
    assert vault.sys.unwrap(token)["auth"]["policies"] == ["default"]
    with pytest.raises(hvac.exceptions.InvalidRequest):
        vault.sys.unwrap(token)
    wrapped = vault.sys.wrap({"k": "v"}, ttl=60)["wrap_info"]["token"]
    assert hvac_client(server, wrapped).sys.unwrap()["data"] == {"k": "v"}


def test_hvac_administers_mounts_audit_and_keys(vault: Any) -> None:
    vault.sys.enable_secrets_engine("kv-v2", path="team/kv", description="theirs")
    assert vault.sys.list_mounted_secrets_engines()["data"]["team/kv/"]["options"] == {
        "version": "2"
    }
    vault.sys.tune_mount_configuration("team/kv", max_lease_ttl="1h", description="ours")
    assert vault.sys.read_mount_configuration("team/kv")["data"]["max_lease_ttl"] == 3600
    vault.sys.move_backend("team/kv", "team/moved")
    assert "team/moved/" in vault.sys.list_mounted_secrets_engines()["data"]
    vault.sys.disable_secrets_engine("team/moved")
    assert vault.sys.list_enabled_audit_devices()["data"]["main/"]["type"] == "file"
    assert vault.sys.calculate_hash("main", "text")["data"]["hash"].startswith("hmac-sha256:")
    before = vault.sys.get_encryption_key_status()["data"]["term"]
    vault.sys.rotate_encryption_key()
    assert vault.sys.get_encryption_key_status()["data"]["term"] == before + 1


def test_hvac_seals_and_unseals(server: Undercroft, vault: Any) -> None:
    vault.sys.seal()
    assert vault.sys.is_sealed()
    with pytest.raises(hvac.exceptions.VaultDown):
        vault.auth.token.lookup_self()
    assert vault.sys.submit_unseal_keys(server.keys)["sealed"] is False
    until(vault.is_authenticated, server)


# bao


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Bao:
    """The command with a home of its own."""

    server: Undercroft
    home: Path
    token: str
    names: str = "BAO"

    def __call__(self, *words: str, stdin: str = "", code: int = 0) -> Ran:
        environment = {
            f"{self.names}_ADDR": f"https://127.0.0.1:{self.server.client.port}",
            f"{self.names}_CACERT": str(self.server.client.ca_file),
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
        }
        if self.token:
            environment[f"{self.names}_TOKEN"] = self.token
        done = subprocess.run(
            [str(Path(sys.executable).parent / "bao"), *words],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return Ran(done.returncode, done.stdout, done.stderr)

    def data(self, *words: str) -> Any:
        """The data of an answer, as JSON."""
        verb = next(i for i, w in enumerate(words) if w in FORMATTED) + 1
        return self(*words[:verb], "-format=json", *words[verb:]).json


FORMATTED = ("get", "put", "patch", "read", "write", "list", "create", "lookup", "renew", "status",
             "unwrap", "key-status", "rotate")  # fmt: skip


@pytest.fixture(name="bao", params=["BAO", "VAULT"])
def _bao(server: Undercroft, tmp_path: Path, request: pytest.FixtureRequest) -> Bao:
    return Bao(server, tmp_path, server.client.token, request.param)


def test_bao_walks_through_kv(bao: Bao) -> None:
    bao("kv", "put", "-mount=secret", "cli/a", "k=1", "n=2")
    assert bao("kv", "get", "-mount=secret", "-field=k", "cli/a").out.strip() == "1"
    bao("kv", "patch", "-mount=secret", "cli/a", "n=3")
    assert bao.data("kv", "get", "-mount=secret", "cli/a")["data"]["data"] == {"k": "1", "n": "3"}
    bao("kv", "put", "-mount=secret", "-cas=0", "cli/a", "k=1", code=2)
    assert bao.data("kv", "list", "-mount=secret", "cli") == ["a"]
    bao("kv", "delete", "-mount=secret", "cli/a")
    assert "deletion_time" in bao("kv", "get", "-mount=secret", "cli/a").out
    bao("kv", "undelete", "-mount=secret", "-versions=2", "cli/a")
    assert bao("kv", "get", "-mount=secret", "-field=n", "cli/a").out.strip() == "3"
    assert bao("kv", "get", "-mount=secret", "-version=1", "-field=n", "cli/a").out.strip() == "2"
    bao("kv", "rollback", "-mount=secret", "-version=1", "cli/a")
    assert bao("kv", "get", "-mount=secret", "-field=n", "cli/a").out.strip() == "2"
    bao("kv", "destroy", "-mount=secret", "-versions=1", "cli/a")
    bao("kv", "metadata", "put", "-mount=secret", "-custom-metadata=owner=ops", "cli/a")
    metadata = bao.data("kv", "metadata", "get", "-mount=secret", "cli/a")["data"]
    assert metadata["custom_metadata"] == {"owner": "ops"}
    assert metadata["versions"]["1"]["destroyed"] is True
    bao("kv", "metadata", "patch", "-mount=secret", "-max-versions=7", "cli/a")
    bao("kv", "metadata", "delete", "-mount=secret", "cli/a")
    missing = bao("kv", "get", "-mount=secret", "cli/a", code=2)
    assert "No value found at secret/data/cli/a" in missing.err


def test_bao_walks_through_plain_reads_and_writes(bao: Bao) -> None:
    bao("secrets", "enable", "-path=flat", "-version=1", "kv")
    bao("write", "flat/dir/x", "a=1", "b=two")
    assert bao("read", "-field=b", "flat/dir/x").out.strip() == "two"
    assert bao.data("read", "flat/dir/x")["data"] == {"a": "1", "b": "two"}
    assert bao.data("list", "flat/dir") == ["x"]
    bao("delete", "flat/dir/x")
    assert "No value found at flat/dir/x" in bao("read", "flat/dir/x", code=2).err
    bao("list", "flat/dir", code=2)
    bao("secrets", "disable", "flat")


def test_bao_logs_a_user_in_who_then_does_what_the_policy_says(bao: Bao) -> None:
    assert "Success" in bao("policy", "write", "app", "-", stdin=POLICY).out
    assert bao("policy", "read", "app").out.strip() == POLICY
    assert "app" in bao("policy", "list").out.split()
    bao("auth", "enable", "-path=staff", "userpass")
    assert "staff/" in bao("auth", "list").out
    bao("write", "auth/staff/users/ada", "password=pw", "token_policies=app")
    user = Bao(bao.server, bao.home, "", bao.names)
    wrong = user("login", "-method=userpass", "-path=staff", "username=ada", "password=no", code=2)
    assert "invalid username or password" in wrong.err
    done = user("login", "-method=userpass", "-path=staff", "username=ada", "password=pw")
    assert "Success! You are now authenticated." in done.out
    user("kv", "put", "-mount=secret", "app/own", "k=v")  # with the token that the login kept
    assert user("kv", "get", "-mount=secret", "-field=k", "app/own").out.strip() == "v"
    assert "permission denied" in user("kv", "put", "-mount=secret", "other", "k=v", code=2).err
    assert "permission denied" in user("policy", "list", code=2).err
    bao("auth", "tune", "-default-lease-ttl=1h", "staff")
    bao("auth", "disable", "staff")
    user("token", "lookup", code=2)
    bao("policy", "delete", "app")


def test_bao_walks_through_the_life_of_a_token(bao: Bao) -> None:
    auth = bao.data("token", "create", "-policy=default", "-ttl=1h", "-display-name=cli")["auth"]
    token, accessor = auth["client_token"], auth["accessor"]
    assert bao.data("token", "lookup", token)["data"]["display_name"] == "token-cli"
    assert bao.data("token", "lookup", "-accessor", accessor)["data"]["policies"] == ["default"]
    assert bao.data("token", "renew", "-increment=2h", token)["auth"]["client_token"] == token
    assert bao("token", "capabilities", token, "sys/mounts").out.strip() == "deny"
    bao("token", "revoke", "-accessor", accessor)
    assert "bad token" in bao("token", "lookup", token, code=2).err
    own = Bao(bao.server, bao.home, bao("token", "create", "-field=token", "-policy=default").out)
    own.token = own.token.strip()
    own("token", "renew")
    own("token", "revoke", "-self")
    own("token", "lookup", code=2)
    bao("token", "revoke", "s.unknown", code=0)


def test_bao_administers_secret_engines(bao: Bao) -> None:
    bao("secrets", "enable", "-path=team", "-description=theirs", "kv-v2")
    assert "theirs" in bao("secrets", "list").out
    bao("kv", "put", "-mount=team", "a", "k=v")
    bao("secrets", "tune", "-max-lease-ttl=1h", "-description=ours", "team")
    assert bao.data("read", "sys/mounts/team/tune")["data"]["max_lease_ttl"] == 3600
    assert "Success" in bao("secrets", "move", "team", "moved").out
    assert bao("kv", "get", "-mount=moved", "-field=k", "a").out.strip() == "v"
    bao("secrets", "disable", "moved")
    assert "moved/" not in bao("secrets", "list").out
    bao("secrets", "enable", "no-such-engine", code=2)


def test_bao_wraps_and_unwraps_once(bao: Bao) -> None:
    bao("kv", "put", "-mount=secret", "wrapped", "k=v")
    info = bao.data("write", "-wrap-ttl=5m", "-f", "auth/token/create")["wrap_info"]
    assert info["ttl"] == 300
    assert bao.data("unwrap", info["token"])["auth"]["policies"] == ["root"]
    bao("unwrap", info["token"], code=2)
    info = bao.data("read", "-wrap-ttl=60", "secret/data/wrapped")["wrap_info"]
    assert bao.data("unwrap", info["token"])["data"]["data"] == {"k": "v"}


def test_bao_operates_the_server(bao: Bao) -> None:
    assert "main/" in bao("audit", "list").out
    assert bao.data("status")["sealed"] is False
    term = bao.data("operator", "key-status")["term"]
    bao("operator", "rotate")
    assert bao.data("operator", "key-status")["term"] == term + 1
    assert "is sealed" in bao("operator", "seal").out
    sealed = bao("status", code=2)
    assert sealed.out.split("Sealed")[1].split()[0] == "true"
    assert "sealed" in bao("kv", "get", "-mount=secret", "x", code=2).err
    opened = bao("operator", "unseal", bao.server.keys[0])
    assert opened.out.split("Sealed")[1].split()[0] == "false"
    until(lambda: bao.server.client.request("GET", "sys/health").status == 200, bao.server)
    assert bao.data("status")["initialized"] is True
