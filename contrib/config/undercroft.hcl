# A configuration to start from. docs/configuration.md has every setting.

# Where data is kept; the directory is made, for its owner alone.
storage "lmdb" {
  path = "/var/lib/undercroft/data"
}

# Where the API is served. Other clusters connect to the cluster address.
listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "0.0.0.0:8201"
  tls_cert_file   = "/etc/undercroft/tls/cert.pem"
  tls_key_file    = "/etc/undercroft/tls/key.pem"

  # Behind a load balancer that sets X-Forwarded-For:
  # x_forwarded_for_authorized_addrs = ["10.0.0.0/8"]

  # Metrics for Prometheus without a token:
  # telemetry {
  #   unauthenticated_metrics_access = true
  # }
}

# How clients and other clusters reach this server.
api_addr     = "https://vault.example.com:8200"
cluster_addr = "https://vault.example.com:8201"
cluster_name = "north"

# Every request in a file. If it cannot be written, requests fail.
audit "file" "main" {
  options {
    file_path = "/var/log/undercroft/audit.json"
  }
}

# Unseal with a key that something else keeps, instead of people with key shares.
# `openssl rand -hex 32` makes one.
# seal "static" {
#   current_key_id = "2026-01"
#   current_key    = "file:///etc/undercroft/seal.key"
# }

default_lease_ttl = "768h"
max_lease_ttl     = "768h"

log_level = "info"
