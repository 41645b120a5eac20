"""Every setting of the server: name, kind, default and meaning, in one table of structs.

A field's name is its name in the file. `docs/configuration.md` is checked against this table, and
the reader (`load.py`) is driven by it. Durations are seconds, sizes bytes.
"""

from collections.abc import Mapping
from typing import Annotated, Final, get_type_hints

import msgspec

from undercroft.config.kinds import Kind, Setting

_LOG_LEVELS: Final = {
    "trace": "trace",
    "debug": "debug",
    "info": "info",
    "warn": "warn",
    "error": "error",
    "notice": "info",
    "warning": "warn",
    "err": "error",
}
_TLS_VERSIONS: Final = {"tls12": "tls12", "tls13": "tls13"}
LEASE_TTL_SECONDS: Final = 768 * 3600
REQUEST_SECONDS: Final = 90.0
LOG_LEVEL: Final = Setting(
    "How much is logged: `trace`, `debug`, `info`, `warn`, `error`.",
    Kind.CHOICE,
    _LOG_LEVELS,
    reload=True,
)
LOG_FORMAT: Final = Setting(
    "`standard` (a line of text) or `json` (an object a line).",
    Kind.CHOICE,
    {"standard": "standard", "json": "json"},
)
WORKERS: Final = Setting(
    "API worker processes.",
    Kind.NUMBER,
    least=1,
    most=256,
    default_text="cores less one, at least 1",
)


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """Where data is kept. The stanza's label is the type: `lmdb`, or `inmem` for tests."""

    type: str = "lmdb"
    path: Annotated[
        str, Setting("Directory of the data, made with mode 0700 if it is missing.")
    ] = ""


class ListenerTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """The `telemetry` block inside a listener."""

    unauthenticated_metrics_access: Annotated[
        bool, Setting("Serve `sys/metrics` without a token on this listener.", Kind.BOOL)
    ] = False


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """An address that serves the API. Certificates are read again at SIGHUP."""

    address: Annotated[str, Setting("Where the API is served.", Kind.ADDRESS)] = "127.0.0.1:8200"
    cluster_address: Annotated[
        str,
        Setting(
            "Where other clusters connect to this one.",
            Kind.ADDRESS,
            port=8201,
            default_text="`address`, its port plus one",
        ),
    ] = ""
    tls_disable: Annotated[bool, Setting("Serve plain HTTP.", Kind.BOOL)] = False
    tls_cert_file: Annotated[
        str, Setting("PEM file: certificate, then its intermediates.", reload=True)
    ] = ""
    tls_key_file: Annotated[str, Setting("PEM file of the private key.", reload=True)] = ""
    tls_min_version: Annotated[
        str, Setting("Oldest TLS version: `tls12`, `tls13`.", Kind.CHOICE, _TLS_VERSIONS)
    ] = "tls12"
    tls_max_version: Annotated[
        str, Setting("Newest TLS version: `tls12`, `tls13`.", Kind.CHOICE, _TLS_VERSIONS)
    ] = "tls13"
    tls_client_ca_file: Annotated[
        str, Setting("PEM file of the CAs that client certificates must come from.")
    ] = ""
    tls_require_and_verify_client_cert: Annotated[
        bool, Setting("Refuse clients without a certificate of `tls_client_ca_file`.", Kind.BOOL)
    ] = False
    tls_disable_client_certs: Annotated[
        bool,
        Setting(
            "Never ask clients for a certificate; they are asked only when one is required.",
            Kind.BOOL,
        ),
    ] = False
    max_request_size: Annotated[
        int, Setting("Longest request body; above it 413.", Kind.SIZE, least=1)
    ] = 32 << 20
    max_request_duration: Annotated[
        float,
        Setting(
            "Longest time for one request.",
            Kind.SECONDS,
            default_text="`default_max_request_duration`",
        ),
    ] = REQUEST_SECONDS
    http_read_header_timeout: Annotated[
        float, Setting("Time for a client to send a request's head.", Kind.SECONDS)
    ] = 10.0
    http_read_timeout: Annotated[
        float, Setting("Time for a client to send a whole request.", Kind.SECONDS)
    ] = 30.0
    http_write_timeout: Annotated[
        float, Setting("Time for a client to take an answer; 0: 30 s.", Kind.SECONDS)
    ] = 0.0
    http_idle_timeout: Annotated[
        float, Setting("Time after which an idle connection is closed.", Kind.SECONDS)
    ] = 300.0
    x_forwarded_for_authorized_addrs: Annotated[
        tuple[str, ...],
        Setting("Proxies whose `X-Forwarded-For` is believed; empty: nobody's.", Kind.NETWORKS),
    ] = ()
    x_forwarded_for_hop_skips: Annotated[
        int,
        Setting("Entries to skip, counted from the last, to the client.", Kind.NUMBER, most=100),
    ] = 0
    x_forwarded_for_reject_not_authorized: Annotated[
        bool, Setting("Refuse the header from any other address.", Kind.BOOL)
    ] = True
    x_forwarded_for_reject_not_present: Annotated[
        bool, Setting("Refuse a proxy's request without the header.", Kind.BOOL)
    ] = True
    redact_addresses: Annotated[
        bool,
        Setting("Keep addresses out of what `sys/leader` and replication status show.", Kind.BOOL),
    ] = False
    redact_cluster_name: Annotated[
        bool, Setting("Keep the cluster's name out of health and seal status.", Kind.BOOL)
    ] = False
    redact_version: Annotated[
        bool, Setting("Keep the version out of health and seal status.", Kind.BOOL)
    ] = False
    telemetry: ListenerTelemetry = ListenerTelemetry()

    @property
    def redacted(self) -> frozenset[str]:
        """What answers that need no token leave empty: `addresses`, `cluster_name`, `version`."""
        named = {
            "addresses": self.redact_addresses,
            "cluster_name": self.redact_cluster_name,
            "version": self.redact_version,
        }
        return frozenset(name for name, wanted in named.items() if wanted)


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What protects the root key. The stanza's label is the type: `shamir` or `static`.

    Keys are 32 bytes, given as they are, in hexadecimal or base64, or as `env://NAME` or
    `file:///path`; only `static` has them.
    """

    type: str = "shamir"
    current_key_id: Annotated[str, Setting("Name of the current key.")] = ""
    current_key: Annotated[bytes, Setting("The current key.")] = b""
    previous_key_id: Annotated[str, Setting("Name of the key before, while changing keys.")] = ""
    previous_key: Annotated[bytes, Setting("The key before.")] = b""

    def __repr__(self) -> str:
        return f"<Seal {self.type}>"  # never the keys


class AuditDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One audit device: `audit "file" "NAME" { options { … } }`."""

    type: str = "file"
    path: str  # the device's name, with a slash at its end
    description: Annotated[str, Setting("Shown in `sys/audit`.")] = ""
    local: Annotated[
        bool, Setting("Shown in `sys/audit`; devices are always local.", Kind.BOOL)
    ] = False
    # below: the block `options`
    file_path: Annotated[
        str, Setting("File to append to; also `stdout`, `stderr`, `discard`. Required.")
    ] = ""
    mode: Annotated[
        int, Setting('Mode of the file; `"0000"` leaves an existing one alone.', Kind.MODE)
    ] = 0o600
    log_raw: Annotated[bool, Setting("Write values as they are, not their HMAC.", Kind.BOOL)] = (
        False
    )
    hmac_accessor: Annotated[bool, Setting("HMAC token accessors too.", Kind.BOOL)] = True
    prefix: Annotated[str, Setting("Text in front of each line.")] = ""
    format: Annotated[str, Setting("`json`.", Kind.CHOICE, {"json": "json"})] = "json"

    elide_list_responses: Annotated[
        bool, Setting("Write how many keys a LIST answered, not which.", Kind.BOOL)
    ] = False
    options: dict[str, str] = {}  # those that were given, as `sys/audit` shows them


AUDIT_OPTIONS: Final = (
    "file_path",
    "mode",
    "log_raw",
    "hmac_accessor",
    "prefix",
    "format",
    "elide_list_responses",
)


class Replication(msgspec.Struct, frozen=True, kw_only=True):
    """The log that other clusters follow, and what they may ask."""

    logshipper_buffer_length: Annotated[
        int, Setting("Log records kept for secondaries to catch up from.", Kind.NUMBER, least=1)
    ] = 1_000_000
    logshipper_buffer_size: Annotated[
        int, Setting("Size of the log kept, on disk.", Kind.SIZE, least=1 << 20)
    ] = 1 << 30
    log_retention_age: Annotated[int, Setting("Age of the log kept; 0: any.", Kind.DURATION)] = (
        24 * 3600
    )
    best_effort_wal_wait_duration: Annotated[
        float, Setting("Longest wait for a write to arrive before answering.", Kind.SECONDS)
    ] = 2.0
    resolver_discover_servers: Annotated[
        bool, Setting("Follow the addresses that the primary tells.", Kind.BOOL)
    ] = True
    allow_forwarding_via_header: Annotated[bool, Setting("Obey `X-Vault-Forward`.", Kind.BOOL)] = (
        False
    )
    allow_forwarding_via_token: Annotated[
        str,
        Setting(
            "`new_token`: forward a request whose token is not known here.",
            Kind.CHOICE,
            {"": "", "new_token": "new_token"},
        ),
    ] = ""


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said; it beats environment and file. Empty: nothing."""

    log_level: str = ""
    log_format: str = ""
    log_file: str = ""
    workers: str = ""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where settings came from, to read them again at SIGHUP."""

    paths: tuple[str, ...] = ()
    environment: dict[str, str] = {}  # only the variables of `load.ENVIRONMENT`
    flags: Flags = Flags()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All there is to set, checked and complete."""

    storage: Storage
    listeners: tuple[Listener, ...]
    seal: Seal = Seal()
    audit: tuple[AuditDevice, ...] = ()
    replication: Replication = Replication()
    api_addr: Annotated[
        str,
        Setting(
            "URL at which clients reach this server.",
            Kind.URL,
            default_text="from the first listener, unless that is a wildcard",
        ),
    ] = ""
    cluster_addr: Annotated[
        str,
        Setting(
            "URL at which other clusters reach this one.",
            Kind.URL,
            default_text="as `api_addr`, from `cluster_address`",
        ),
    ] = ""
    cluster_name: Annotated[
        str, Setting("Name of the cluster, given at its initialisation.", default_text="made up")
    ] = ""
    default_lease_ttl: Annotated[
        int,
        Setting("TTL of tokens and leases that ask for none.", Kind.DURATION, merge="largest"),
    ] = LEASE_TTL_SECONDS
    max_lease_ttl: Annotated[
        int, Setting("Longest TTL of tokens and leases.", Kind.DURATION, merge="largest")
    ] = LEASE_TTL_SECONDS
    default_max_request_duration: Annotated[
        float,
        Setting(
            "Longest time for one request, unless a listener says otherwise.",
            Kind.SECONDS,
            merge="largest",
        ),
    ] = REQUEST_SECONDS
    enable_unauthenticated_access: Annotated[
        tuple[str, ...],
        Setting(
            "Old endpoints to open to callers without a token: `generate-root`.",
            Kind.CHOICES,
            {"generate-root": "generate-root"},
        ),
    ] = ()
    log_level: Annotated[str, LOG_LEVEL] = "info"
    log_format: Annotated[str, LOG_FORMAT] = "standard"
    log_file: Annotated[
        str, Setting("File to log to, besides standard error; opened anew at SIGHUP.")
    ] = ""
    pid_file: Annotated[str, Setting("File that holds the server's process id while it runs.")] = ""
    workers: Annotated[int | None, WORKERS] = None
    origin: Origin = Origin()


def table(struct: type[msgspec.Struct]) -> Mapping[str, tuple[Setting, object]]:
    """Name -> (setting, default) of a struct's settings, in their order."""
    rows = {}
    for field in msgspec.structs.fields(struct):
        setting = _HINTS[struct].get(field.name)
        if setting is not None:
            rows[field.name] = (setting, field.default)
    return rows


def _hints(struct: type[msgspec.Struct]) -> dict[str, Setting]:
    found = {}
    for name, hint in get_type_hints(struct, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Setting):
                found[name] = extra
    return found


STRUCTS: Final[tuple[type[msgspec.Struct], ...]] = (
    Settings,
    Storage,
    Listener,
    ListenerTelemetry,
    Seal,
    AuditDevice,
    Replication,
)
_HINTS: Final = {struct: _hints(struct) for struct in STRUCTS}
