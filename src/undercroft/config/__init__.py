"""The server's configuration: Vault's file format and environment, as one tree of settings.

`settings.py` is the table of all there is; `load` reads it from files; `development` is what
`server -dev` runs with.
"""

from undercroft.config.development import development
from undercroft.config.files import ConfigError
from undercroft.config.load import Loaded, load, load_again
from undercroft.config.settings import (
    AuditDevice,
    Flags,
    Listener,
    ListenerTelemetry,
    Replication,
    Seal,
    Settings,
    Storage,
)

__all__ = [
    "AuditDevice",
    "ConfigError",
    "Flags",
    "Listener",
    "ListenerTelemetry",
    "Loaded",
    "Replication",
    "Seal",
    "Settings",
    "Storage",
    "development",
    "load",
    "load_again",
]
