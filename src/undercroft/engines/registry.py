"""Every engine that this server has, by the type that a mount names."""

from typing import Final

from undercroft.engines import cubbyhole, kv
from undercroft.engines.auth import token, userpass
from undercroft.engines.base import Engine
from undercroft.engines.system.engine import SYSTEM_ENGINE

ENGINES: Final[dict[str, Engine]] = {
    engine.type: engine
    for engine in (SYSTEM_ENGINE, kv.ENGINE, cubbyhole.ENGINE, token.ENGINE, userpass.ENGINE)
}
