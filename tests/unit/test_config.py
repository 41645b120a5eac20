"""The configuration file: what is read, warned of, refused, and where it says so."""

import base64
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.config import ConfigError, Flags, Settings, development, load, load_again
from undercroft.config.kinds import BadValue, Kind, Setting, convert
from undercroft.errors import UndercroftError

MINIMAL = """
storage "lmdb" { path = "/srv/data" }
listener "tcp" {
  address     = "127.0.0.1:8200"
  tls_disable = true
}
"""
KEY = bytes(range(32))
CANARY = "canary-in-a-value"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def _write(text: str, name: str = "u.hcl") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


def read(path: Path, **environment: str) -> tuple[Settings, list[str]]:
    loaded = load([str(path)], environment=environment)
    short = [w.removeprefix(f"{path.parent}/") for w in loaded.warnings]
    return loaded.settings, short


def problems(path: Path, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load([str(path)], environment=environment)
    return caught.value.message.replace(f"{path.parent}/", "")


# What is read


def test_a_minimal_file_is_complete(write: Callable[..., Path]) -> None:
    settings, warnings = read(write(MINIMAL))
    assert warnings == []
    assert (settings.storage.type, settings.storage.path) == ("lmdb", "/srv/data")
    (listener,) = settings.listeners
    assert listener.address == "127.0.0.1:8200"
    assert listener.cluster_address == "127.0.0.1:8201"
    assert listener.max_request_size == 32 << 20
    assert listener.max_request_duration == 90
    assert settings.api_addr == "http://127.0.0.1:8200"
    assert settings.cluster_addr == "https://127.0.0.1:8201"
    assert settings.default_lease_ttl == settings.max_lease_ttl == 768 * 3600
    assert settings.seal.type == "shamir"
    assert settings.workers is None


def test_every_stanza_of_a_full_file_is_read(write: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("cert", "key", "ca"):
        (tmp_path / name).touch()
    settings, warnings = read(
        write(f"""
        storage "lmdb" {{ path = "/srv/data" }}
        listener "tcp" {{
          address = "[::1]:8300"
          cluster_address = "[::1]:8400"
          tls_cert_file = "{tmp_path}/cert"
          tls_key_file = "{tmp_path}/key"
          tls_client_ca_file = "{tmp_path}/ca"
          tls_require_and_verify_client_cert = "true"
          tls_min_version = "tls13"
          max_request_size = "1MiB"
          max_request_duration = "10s"
          http_idle_timeout = "1500ms"
          x_forwarded_for_authorized_addrs = "10.0.0.0/8, 192.168.1.1"
          x_forwarded_for_hop_skips = "1"
          x_forwarded_for_reject_not_present = false
          telemetry {{ unauthenticated_metrics_access = true }}
        }}
        listener "tcp" {{ address = "127.0.0.1:8500" tls_disable = 1 }}
        audit "file" "main" {{
          description = "all of it"
          options {{ file_path = "/var/log/a" mode = "0640" log_raw = "false" prefix = "p:" }}
        }}
        telemetry {{ prometheus_retention_time = "30s" disable_hostname = true }}
        replication {{ logshipper_buffer_length = 100 best_effort_wal_wait_duration = "500ms" }}
        api_addr = "https://vault.example.com:8200"
        cluster_addr = "https://vault.example.com:8201"
        cluster_name = "north"
        default_lease_ttl = "1h"
        max_lease_ttl = 7200
        log_level = "WARNING"
        log_format = "json"
        workers = 3
        """)
    )
    assert warnings == []
    first, second = settings.listeners
    assert (first.address, first.cluster_address) == ("[::1]:8300", "[::1]:8400")
    assert (first.tls_min_version, first.max_request_size) == ("tls13", 1 << 20)
    assert (first.max_request_duration, first.http_idle_timeout) == (10, 1.5)
    assert first.x_forwarded_for_authorized_addrs == ("10.0.0.0/8", "192.168.1.1/32")
    assert first.x_forwarded_for_reject_not_authorized
    assert not first.x_forwarded_for_reject_not_present
    assert first.telemetry.unauthenticated_metrics_access
    assert not second.telemetry.unauthenticated_metrics_access
    (device,) = settings.audit
    assert (device.path, device.mode, device.log_raw) == ("main/", 0o640, False)
    assert device.options == {
        "file_path": "/var/log/a",
        "mode": "0640",
        "log_raw": "false",
        "prefix": "p:",
    }
    assert settings.replication.logshipper_buffer_length == 100
    assert settings.replication.best_effort_wal_wait_duration == 0.5
    assert (settings.log_level, settings.log_format) == ("warn", "json")
    assert (settings.default_lease_ttl, settings.max_lease_ttl) == (3600, 7200)
    assert settings.workers == 3


@pytest.mark.parametrize(
    "text",
    [
        '{"storage":{"inmem":{}},"listener":{"tcp":{"address":"127.0.0.1:1","tls_disable":1}}}',
        '{"storage":{"inmem":{}},"listener":[{"tcp":{"address":"127.0.0.1:1","tls_disable":1}}]}',
        '{"storage":{"inmem":{}},"listener":{"tcp":[{"address":"127.0.0.1:1","tls_disable":1}]}}',
        '{"storage":[{"inmem":{}}],"listener":[{"tcp":[{"address":"127.0.0.1:1",'
        '"tls_disable":true}]}]}',
    ],
)
def test_each_way_of_nesting_json_gives_the_same(text: str, write: Callable[..., Path]) -> None:
    settings, _ = read(write(text, "u.json"))
    assert [listener.address for listener in settings.listeners] == ["127.0.0.1:1"]


def test_json_with_an_audit_device_and_one_inner_block(write: Callable[..., Path]) -> None:
    settings, _ = read(
        write(
            '{"storage":{"inmem":{}},"listener":{"tcp":{"tls_disable":1,"address":"127.0.0.1:1",'
            '"telemetry":{"unauthenticated_metrics_access":true}}},'
            '"audit":{"file":{"main":{"options":{"file_path":"/a"}}}}}',
            "u.json",
        )
    )
    assert settings.audit[0].file_path == "/a"
    assert settings.listeners[0].telemetry.unauthenticated_metrics_access


@pytest.mark.parametrize("label", ["file", "raft"])
def test_other_storages_are_taken_as_lmdb_with_a_warning(
    label: str, write: Callable[..., Path]
) -> None:
    text = MINIMAL.replace('"lmdb"', f'"{label}"').replace("path", 'node_id = "n1" path')
    settings, warnings = read(write(text))
    assert (settings.storage.type, settings.storage.path) == ("lmdb", "/srv/data")
    assert warnings == [
        f'u.hcl:2: storage "{label}" is taken as "lmdb" at its path; data that another server '
        "left there is not read"
    ]


def test_backend_is_the_old_name_of_storage(write: Callable[..., Path]) -> None:
    settings, _ = read(write(MINIMAL.replace("storage", "backend")))
    assert settings.storage.path == "/srv/data"


def test_audit_devices_have_a_second_form(write: Callable[..., Path]) -> None:
    settings, _ = read(
        write(MINIMAL + 'audit { type = "file" path = "x" options = { file_path = "stdout" } }')
    )
    assert (settings.audit[0].path, settings.audit[0].file_path) == ("x/", "stdout")


# Several files


def test_a_directory_stands_for_its_files_in_order(write: Callable[..., Path]) -> None:
    write(MINIMAL + 'cluster_name = "a"', "10.hcl")
    write('{"cluster_name": "b"}', "20.json")
    write("this is not read", "30.hcl~")
    write("nor is this", ".40.hcl")
    directory = write("nor this", "50.txt").parent
    assert load([str(directory)], environment={}).settings.cluster_name == "b"


def test_files_merge_as_vault_merges_them(write: Callable[..., Path]) -> None:
    audit = 'audit "file" "%s" { options { file_path = "/a" } }'
    one = write(
        MINIMAL + 'default_lease_ttl="1h"\nmax_lease_ttl="10h"\ncluster_name="a"' + audit % "x"
    )
    two = write(
        'listener "tcp" { address="127.0.0.1:9200" tls_disable=true }\n'
        'default_lease_ttl=1800\nmax_lease_ttl="2h"\ncluster_name="b"' + audit % "y",
        "v.hcl",
    )
    settings = load([str(one), str(two)], environment={}).settings
    assert [listener.address for listener in settings.listeners] == [
        "127.0.0.1:8200",
        "127.0.0.1:9200",
    ]
    assert (settings.default_lease_ttl, settings.max_lease_ttl) == (3600, 36000)
    assert settings.cluster_name == "b"
    assert [device.path for device in settings.audit] == ["x/", "y/"]


@pytest.mark.parametrize("missing", ["nowhere.hcl", "empty"])
def test_what_is_not_there_is_named(missing: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=missing):
        load([str(tmp_path / missing)], environment={})


# Environment and command line


def test_command_line_beats_environment_beats_file(write: Callable[..., Path]) -> None:
    path = str(write(MINIMAL + 'log_level = "error"\nlog_format = "json"\napi_addr = "http://f:1"'))
    environment = {
        "VAULT_API_ADDR": "http://v:1",
        "BAO_API_ADDR": "http://b:1",
        "VAULT_LOG_LEVEL": "debug",
        "VAULT_LOG_FORMAT": "standard",
    }
    settings = load([path], environment=environment, flags=Flags(log_level="trace")).settings
    assert settings.api_addr == "http://b:1"
    assert settings.log_format == "standard"
    assert settings.log_level == "trace"


def test_reading_again_keeps_command_line_and_environment(write: Callable[..., Path]) -> None:
    path = write(MINIMAL + 'log_level = "error"\ncluster_name = "a"')
    first = load([str(path)], environment={"BAO_LOG_FORMAT": "json"}).settings
    write(MINIMAL + 'log_level = "debug"\ncluster_name = "b"')
    again = load_again(first, {}).settings
    assert (again.log_level, again.log_format) == ("debug", "json")
    flagged = load([str(path)], environment={}, flags=Flags(log_level="warn")).settings
    assert load_again(flagged, {}).settings.log_level == "warn"


# Warnings


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ('api_adr = "x"', 'u.hcl:7: unknown setting "api_adr"; did you mean "api_addr"?'),
        ("lisener = 1", 'u.hcl:7: unknown setting "lisener"; did you mean "listener"?'),
        ("frobnicate = 1", 'u.hcl:7: unknown setting "frobnicate"'),
        ("ui = true", "u.hcl:7: ui has no effect: there is no web interface"),
        (
            "telemetry { metrics_prefix = 1 }",
            "u.hcl:7: metrics_prefix in telemetry has no effect: names begin with `vault.`",
        ),
        (
            "telemetry { usage_gauge_perid = 1 }",
            'u.hcl:7: unknown setting "usage_gauge_perid" in telemetry; '
            'did you mean "usage_gauge_period"?',
        ),
        (
            'service_registration "consul" { address = "x" }',
            "u.hcl:7: service_registration has no effect: register `GET /v1/sys/health` as the "
            "service's check yourself",
        ),
    ],
)
def test_what_has_no_effect_is_a_warning_with_its_line(
    text: str, warning: str, write: Callable[..., Path]
) -> None:
    assert read(write(MINIMAL + text))[1] == [warning]


@pytest.mark.parametrize(
    "text",
    [
        "disable_mlock = true",
        "ui = false",
        "raw_storage_endpoint = false",
        'cache_size = "131072"',
        'plugin_directory = ""',
        "disable_sealwrap = true",
    ],
)
def test_what_asks_for_what_is_so_anyway_is_silent(text: str, write: Callable[..., Path]) -> None:
    assert read(write(MINIMAL + text))[1] == []


def test_a_wildcard_listener_needs_an_address_to_tell(write: Callable[..., Path]) -> None:
    settings, warnings = read(write(MINIMAL.replace("127.0.0.1", "0.0.0.0")))
    assert settings.api_addr == settings.cluster_addr == ""
    assert len(warnings) == 2
    assert "no api_addr" in warnings[0]


# Refusals


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('storage "consul" {}', 'u.hcl:7: storage "consul" is not supported; supported: "lmdb", '),
        ('listener "unix" {}', 'u.hcl:7: listener "unix" is not supported; supported: "tcp"'),
        ('seal "awskms" {}', 'seal "awskms" is not supported; supported: "shamir", "static"'),
        ('audit "syslog" "x" {}', 'audit "syslog" is not supported; supported: "file"'),
        ('audit "file" "x" {}', "u.hcl:7: audit needs file_path"),
        ('audit "file" {}', "u.hcl:7: audit needs a name"),
        ("telemetry { statsd_address = 1 }", "statsd_address in telemetry is not supported: only"),
        ("raw_storage_endpoint = true", "u.hcl:7: raw_storage_endpoint is not supported"),
        ('default_lease_ttl = "soon"', "u.hcl:7: default_lease_ttl must be a duration"),
        ("default_lease_ttl = -1", "u.hcl:7: default_lease_ttl must be at least 0"),
        ('default_lease_ttl = "2000h"', "default_lease_ttl is longer than max_lease_ttl"),
        (
            'log_level = "loud"',
            "log_level is not supported; supported: trace, debug, info, warn, e",
        ),
        ('log_format = "xml"', "log_format is not supported; supported: standard, json"),
        ("workers = 0", "u.hcl:7: workers must be from 1 to 256"),
        ("workers = true", "u.hcl:7: workers must be a whole number"),
        ('api_addr = "vault:8200"', "u.hcl:7: api_addr must be a URL"),
        ('api_addr = "http://{{ GetPrivateIP }}"', "go-sockaddr templates"),
        ('cluster_addr = "https://u:p@h"', "without credentials"),
        ("telemetry = 1", "u.hcl:7: telemetry must be a block"),
        ('enable_unauthenticated_access = ["rekey"]', "supported: generate-root"),
        ('seal "static" {}', "needs current_key and current_key_id"),
        ('seal "shamir" {}\nseal "shamir" {}', "u.hcl:8: there may be one seal stanza"),
        ('ha_storage "consul" {}', "u.hcl:7: ha_storage is not supported"),
        ('storage "lmdb" {}', "u.hcl:7: storage needs a path"),
        (
            'listener "tcp" { address = "0.0.0.0:8200" tls_disable = true cluster_address=":9"}',
            "u.hcl:7: address wants port 8200, which address at u.hcl:3 has",
        ),
        (
            'listener "tcp" { address = "127.0.0.1:8201" tls_disable = true }',
            "u.hcl:7: address wants port 8201, which cluster_address at u.hcl:3 has",
        ),
        (
            'listener "tcp" { address = "h:9" cluster_address = "h:9" tls_disable = true }',
            "u.hcl:7: cluster_address wants port 9, which address at u.hcl:7 has",
        ),
        ('listener "tcp" { address = "h:9" }', "tls_cert_file and tls_key_file to serve TLS"),
        ('listener "tcp" { tls_cert_file = "/nowhere" }', "tls_cert_file names a file that cannot"),
        ('listener "tcp" { tls_min_version = "tls10" }', "supported: tls12, tls13"),
        ('listener "tcp" { address = "a b" }', "address in listener must be an address"),
        ('listener "tcp" { proxy_protocol_behavior = "use_always" }', "proxy_protocol_behavior in"),
        ('audit "file" "x" { options { mode = "0755" } }', "must not make the file executable"),
        ('audit "file" "x" { options { format = "jsonx" } }', "supported: json"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_line(
    text: str, problem: str, write: Callable[..., Path]
) -> None:
    assert problem in problems(write(MINIMAL + text))


def test_all_problems_are_told_at_once(write: Callable[..., Path]) -> None:
    told = problems(write('log_level = "loud"\nworkers = 0\nstorage "s3" {}'))
    assert [line.split(" ")[0] for line in told.splitlines()] == [
        "u.hcl:1:",
        "u.hcl:2:",
        "u.hcl:3:",
    ]


def test_nothing_configured_is_two_problems(write: Callable[..., Path]) -> None:
    told = problems(write(""))
    assert "no storage" in told
    assert "no listener" in told


def test_a_mistake_in_the_language_has_its_place(write: Callable[..., Path]) -> None:
    with pytest.raises(Exception, match=re.escape("u.hcl: At 3:1:")):
        read(write('storage "lmdb" {\n path = \n}'))


@pytest.mark.parametrize("name", ["default_lease_ttl", "log_level", "api_addr", "workers"])
def test_threat_aud_07_a_bad_value_is_not_repeated(name: str, write: Callable[..., Path]) -> None:
    assert CANARY not in problems(write(MINIMAL + f'{name} = "{CANARY}"'))


# Seal keys


def static(value: str) -> str:
    return MINIMAL + f'seal "static" {{ current_key_id = "1" current_key = "{value}" }}'


@pytest.mark.parametrize(
    "form", ["raw", "hex", "base64", "env://SEAL_KEY", "file://{}/hex", "file://{}/raw"]
)
def test_a_seal_key_is_read_in_every_form(
    form: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "hex").write_text(KEY.hex() + "\n")
    (tmp_path / "raw").write_bytes(KEY)
    forms = {"raw": "0123456789abcdef0123456789abcdef", "hex": KEY.hex()}
    forms["base64"] = base64.b64encode(KEY).decode()
    value = forms.get(form, form).format(tmp_path)
    settings, _ = read(write(static(value)), SEAL_KEY=KEY.hex())
    assert settings.seal.current_key == (value.encode() if form == "raw" else KEY)
    assert settings.seal.current_key_id == "1"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (CANARY, "must be 32 bytes"),
        (f"env://{CANARY}", "environment variable that is not set"),
        (f"file:///nowhere/{CANARY}", "file that cannot be read"),
    ],
)
def test_threat_aud_08_a_seal_key_is_never_shown(
    value: str, problem: str, write: Callable[..., Path]
) -> None:
    told = problems(write(static(value)))
    assert problem in told
    assert CANARY not in told
    settings, _ = read(write(static(KEY.hex())))
    assert KEY.hex() not in repr(settings)
    assert repr(KEY) not in repr(settings)


# Development


def test_development_serves_plain_http_in_memory() -> None:
    settings = development("127.0.0.1:8300")
    assert settings.storage.type == "inmem"
    assert settings.listeners[0].tls_disable
    assert settings.api_addr == "http://127.0.0.1:8300"
    assert load_again(settings).settings is settings


def test_development_with_a_certificate_serves_tls() -> None:
    settings = development(cert_file="/c", key_file="/k", flags=Flags(workers="2"))
    assert not settings.listeners[0].tls_disable
    assert settings.api_addr == "https://127.0.0.1:8200"
    assert settings.workers == 2


# Kinds

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text())
)


@given(st.sampled_from(list(Kind)), ANYTHING)
def test_a_conversion_gives_a_value_or_says_what_is_accepted(kind: Kind, value: Any) -> None:
    setting = Setting("", kind, choices={"a": "a"})
    told = "must"
    try:
        convert(setting, value)
    except BadValue as error:
        told = str(error)
    assert told.startswith(("must", "is not supported"))


@pytest.mark.parametrize(
    ("text", "expected"), [("1024", 1024), ("1k", 1024), ("32MiB", 32 << 20), ("1 GB", 1 << 30)]
)
def test_sizes_have_units(text: str, expected: int) -> None:
    assert convert(Setting("", Kind.SIZE), text) == expected


# Anything at all

WORDS = st.sampled_from(
    [
        *("storage", "listener", "seal", "audit", "telemetry", "replication", "options", "workers"),
        *("address", "path", "lmdb", "tcp", "static", "file", "current_key", "user_lockout"),
    ]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 99999), st.text(max_size=9), WORDS)
DOCUMENTS = st.dictionaries(
    WORDS,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    ),
)


@given(DOCUMENTS)
def test_any_document_is_read_or_refused_with_a_reason(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "u.json"
        path.write_text(json.dumps(document))
        told = "read"
        try:
            load([str(path)], environment={})
        except UndercroftError as error:
            told = error.message
        assert told
