"""What `server -dev` runs with: in memory, one listener, Shamir with one share."""

from undercroft.config.check import split_address
from undercroft.config.files import ConfigError
from undercroft.config.kinds import BadValue, convert
from undercroft.config.settings import Flags, Listener, Settings, Storage, table

_API_PORT_DEFAULT = 8200


def development(
    address: str = "", *, cert_file: str = "", key_file: str = "", flags: Flags | None = None
) -> Settings:
    """Settings of a development server; with a certificate it serves TLS. Raises ConfigError."""
    flags = flags or Flags()
    rows = table(Settings)
    try:
        where = convert(table(Listener)["address"][0], address or f"127.0.0.1:{_API_PORT_DEFAULT}")
        values = {
            name: convert(rows[name][0], value)
            for name in flags.__struct_fields__
            if (value := getattr(flags, name))
        }
    except BadValue as error:
        raise ConfigError(f"a value on the command line {error}") from None
    host, port = split_address(where)
    scheme = "https" if cert_file else "http"
    listener = Listener(
        address=where,
        cluster_address=f"{host}:{port + 1 if 0 < port < 65535 else 0}",
        tls_disable=not cert_file,
        tls_cert_file=cert_file,
        tls_key_file=key_file,
    )
    return Settings(
        storage=Storage(type="inmem"),
        listeners=(listener,),
        api_addr=f"{scheme}://{where}",
        cluster_addr=f"https://{listener.cluster_address}",
        **values,
    )
