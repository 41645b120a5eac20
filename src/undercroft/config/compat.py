"""Settings of Vault and OpenBao that mean something else here, or nothing.

Each name has a fate: SILENT, it asks for what is so anyway; WARN, it has no effect and whoever set
it should know; REFUSE, going on without it would be wrong. A WARN or REFUSE whose value is `false`,
`0` or empty asks for nothing and is silent. `docs/configuration.md` lists them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Fate(Enum):
    SILENT = auto()
    WARN = auto()
    REFUSE = auto()


@dataclass(frozen=True)
class Known:
    fate: Fate
    why: str


def _silent(why: str) -> Known:
    return Known(Fate.SILENT, why)


def _warn(why: str) -> Known:
    return Known(Fate.WARN, why)


def _refuse(why: str) -> Known:
    return Known(Fate.REFUSE, why)


_NO_PLUGINS: Final = _warn("there are no external plugins")
_ENTERPRISE: Final = _warn("nothing here needs it")
_ROTATE: Final = _warn("move the log file away and send SIGHUP, as logrotate does")
_NO_HEADER: Final = _warn("the response header is not sent")
_SINK: Final = _refuse("only Prometheus metrics are supported: scrape `GET /v1/sys/metrics`")

TOP: Final[Mapping[str, Known]] = {
    "disable_mlock": _silent("memory is not locked; encrypt or disable swap"),
    "cache_size": _silent("the page cache of the operating system is the cache"),
    "disable_cache": _silent("reads always see the last commit"),
    "disable_sealwrap": _silent("there is no seal wrapping"),
    "disable_indexing": _silent("nothing is indexed"),
    "disable_performance_standby": _silent("there are no standby nodes"),
    "disable_standby_reads": _silent("there are no standby nodes"),
    "disable_printable_check": _silent("names may hold any character but control characters"),
    "disable_sentinel_trace": _silent("there is no Sentinel"),
    "disable_ssct_tokens": _silent("tokens carry no index"),
    "detect_deadlocks": _silent("for developers of another server"),
    "allow_audit_log_prefixing": _silent("audit devices come from this file alone"),
    "imprecise_lease_role_tracking": _silent("there are no role quotas"),
    "ui": _warn("there is no web interface"),
    "disable_clustering": _warn("the cluster port is open whenever replication is enabled"),
    "plugin_directory": _NO_PLUGINS,
    "plugin_file_uid": _NO_PLUGINS,
    "plugin_file_permissions": _NO_PLUGINS,
    "plugin_tmpdir": _NO_PLUGINS,
    "plugin_download_behavior": _NO_PLUGINS,
    "plugin_auto_download": _NO_PLUGINS,
    "plugin_auto_register": _NO_PLUGINS,
    "plugin": _NO_PLUGINS,
    "license_path": _ENTERPRISE,
    "administrative_namespace_path": _ENTERPRISE,
    "sentinel": _ENTERPRISE,
    "reporting": _ENTERPRISE,
    "experiments": _ENTERPRISE,
    "feature_flags": _ENTERPRISE,
    "kms_library": _ENTERPRISE,
    "entropy": _warn("random numbers come from the operating system"),
    "service_registration": _warn("register `GET /v1/sys/health` as the service's check yourself"),
    "user_lockout": _warn("tune `user_lockout_config` on the auth mount"),
    "cluster_cipher_suites": _warn("the cluster port speaks TLS 1.3 only"),
    "introspection_endpoint": _warn("the endpoint does not exist"),
    "enable_response_header_hostname": _NO_HEADER,
    "enable_response_header_raft_node_id": _NO_HEADER,
    "enable_post_unseal_trace": _warn("tracing is not supported"),
    "post_unseal_trace_directory": _warn("tracing is not supported"),
    "enable_multiseal": _warn("there is one seal"),
    "log_requests_level": _warn("requests stand in the audit log"),
    "log_rotate_bytes": _ROTATE,
    "log_rotate_duration": _ROTATE,
    "log_rotate_max_files": _ROTATE,
    "unsafe_allow_api_audit_creation": _warn("audit devices come from this file alone"),
    "unsafe_cross_namespace_identity": _warn("namespaces are not supported"),
    "unsafe_relative_paths": _warn("relative paths are not supported in requests"),
    "allow_unauthenticated_workflows": _warn("workflows are not supported"),
    "initialize": _refuse("initialise with `undercroft operator init`"),
    "ha_storage": _refuse("a cluster has one node: use replication, and the storage stanza alone"),
    "ha_backend": _refuse("a cluster has one node: use replication, and the storage stanza alone"),
    "raw_storage_endpoint": _refuse("`sys/raw` is not supported"),
}

_OTHER_STORE: Final = _silent("options of the other storage type")
STORAGE: Final[Mapping[str, Known]] = {
    "node_id": _OTHER_STORE,
    "performance_multiplier": _OTHER_STORE,
    "trailing_logs": _OTHER_STORE,
    "snapshot_threshold": _OTHER_STORE,
    "snapshot_interval": _OTHER_STORE,
    "max_entry_size": _OTHER_STORE,
    "max_transaction_size": _OTHER_STORE,
    "max_mount_and_namespace_table_entry_size": _OTHER_STORE,
    "raft_log_verifier_enabled": _OTHER_STORE,
    "raft_log_verification_interval": _OTHER_STORE,
    "raft_wal": _OTHER_STORE,
    "raft_wal_segment_size": _OTHER_STORE,
    "max_read_lease_age": _OTHER_STORE,
    "max_parallel": _OTHER_STORE,
    "disable_clustering": _OTHER_STORE,
    "autopilot_reconcile_interval": _warn("there are no other nodes to look after"),
    "autopilot_redundancy_zone": _warn("there are no other nodes to look after"),
    "autopilot_upgrade_version": _warn("there are no other nodes to look after"),
    "retry_join": _warn("a cluster has one node: use replication"),
    "retry_join_as_non_voter": _warn("a cluster has one node: use replication"),
}

_JSON_LIMIT: Final = _warn("limits on JSON are fixed: see docs/compatibility.md")
LISTENER: Final[Mapping[str, Known]] = {
    "purpose": _silent("every listener serves the API"),
    "tls_prefer_server_cipher_suites": _silent("suites are chosen by the server"),
    "tls_cipher_suites": _warn("only suites with forward secrecy and AEAD are offered"),
    "max_request_json_memory": _JSON_LIMIT,
    "max_request_json_strings": _JSON_LIMIT,
    "max_json_depth": _JSON_LIMIT,
    "max_json_string_value_length": _JSON_LIMIT,
    "max_json_object_entry_count": _JSON_LIMIT,
    "max_json_array_element_count": _JSON_LIMIT,
    "custom_response_headers": _warn("response headers cannot be changed"),
    "profiling": _warn("there are no profiling endpoints"),
    "inflight_requests_logging": _warn("`sys/in-flight-req` needs a token"),
    "agent_api": _warn("this is a server"),
    "proxy_api": _warn("this is a server"),
    "role": _warn("this is a server"),
    "require_request_header": _warn("this is a server"),
    "chroot_namespace": _refuse("namespaces are not supported"),
    "proxy_protocol_behavior": _refuse("use `x_forwarded_for_authorized_addrs`"),
    "proxy_protocol_authorized_addrs": _refuse("use `x_forwarded_for_authorized_addrs`"),
    "x_forwarded_for_client_cert_header": _refuse("client certificates end at this server"),
    "tls_acme_ca_directory": _refuse("certificates come from `tls_cert_file`"),
    "tls_acme_domains": _refuse("certificates come from `tls_cert_file`"),
    "disable_unauthed_rekey_endpoints": _silent("those endpoints are never open"),
    "disable_unauthed_generate_root_endpoints": _silent(
        "`false` is the same as `enable_unauthenticated_access` with `generate-root`"
    ),
}

TELEMETRY: Final[Mapping[str, Known]] = {
    "prometheus_retention_time": _silent("`sys/metrics` is always there, and values never expire"),
    "disable_hostname": _silent("metrics do not name the host"),
    "usage_gauge_period": _silent("nothing is counted in the background"),
    "enable_hostname_label": _warn("add the host's name where metrics are scraped"),
    "metrics_prefix": _warn("names begin with `vault.`"),
    "maximum_gauge_cardinality": _silent("gauges are bounded"),
    "lease_metrics_epsilon": _warn("leases are not counted by the time they expire"),
    "num_lease_metrics_buckets": _warn("leases are not counted by the time they expire"),
    "add_lease_metrics_namespace_labels": _warn("namespaces are not supported"),
    "add_mount_point_rollback_metrics": _silent("there is no rollback to measure"),
    "rollback_metrics_include_mount_point": _silent("there is no rollback to measure"),
    "filter_default": _warn("all metrics are shown"),
    "prefix_filter": _warn("all metrics are shown"),
    "statsite_address": _SINK,
    "statsd_address": _SINK,
    "dogstatsd_addr": _SINK,
    "dogstatsd_tags": _SINK,
    "stackdriver_project_id": _SINK,
    "stackdriver_location": _SINK,
    "stackdriver_namespace": _SINK,
    "stackdriver_debug_logs": _SINK,
    "circonus_api_token": _SINK,
    "circonus_api_app": _SINK,
    "circonus_api_url": _SINK,
    "circonus_submission_interval": _SINK,
    "circonus_submission_url": _SINK,
    "circonus_check_id": _SINK,
    "circonus_check_force_metric_activation": _SINK,
    "circonus_check_instance_id": _SINK,
    "circonus_check_search_tag": _SINK,
    "circonus_check_display_name": _SINK,
    "circonus_check_tags": _SINK,
    "circonus_broker_id": _SINK,
    "circonus_broker_select_tag": _SINK,
}

AUDIT: Final[Mapping[str, Known]] = {
    "fallback": _warn("every device gets every entry"),
    "filter": _refuse("every device gets every entry"),
    "exclude": _refuse("every device gets every entry"),
}

SEAL: Final[Mapping[str, Known]] = {
    "name": _silent("there is one seal"),
    "priority": _silent("there is one seal"),
    "disabled": _refuse("moving data from one seal to another is not supported"),
}
