"""A server on disk that serves TLS with certificates of a throw-away CA."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.undercroft import Undercroft, free_port, initialize, start
from undercroft.cli.certificates import make_certificates


def write_tls_config(directory: Path, port: int, more: str = "") -> Path:
    data = directory / "data"
    config = directory / "undercroft.hcl"
    config.write_text(
        f"""
storage "lmdb" {{
  path = "{data}"
}}
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{free_port()}"
  tls_cert_file   = "{directory / "cert.pem"}"
  tls_key_file    = "{directory / "key.pem"}"
}}
{more}
"""
    )
    return config


@contextlib.contextmanager
def tls_server(directory: Path, more: str = "") -> Iterator[Undercroft]:
    """Initialised and unsealed; its CA is `ca.pem` in the directory."""
    port = free_port()
    make_certificates(directory)
    server = start([f"-config={write_tls_config(directory, port, more)}"], directory, port)
    server.client.ca_file = directory / "ca.pem"
    try:
        initialize(server)
        yield server
    finally:
        server.kill()
