"""KV v2: versions of secrets, each with metadata. The route table; handlers stand beside it."""

from typing import Final

from undercroft.engines.base import Engine
from undercroft.engines.kv import data, elsewhere, metadata, restoring, settings, versions

ENGINE: Final = Engine(
    type="kv",
    description="key/value secret storage with versions",
    routes=(
        settings.ROUTE,
        data.DATA,
        data.SUBKEYS,
        metadata.METADATA,
        metadata.DETAILED,
        versions.DELETE,
        versions.UNDELETE,
        versions.DESTROY,
        *elsewhere.ROUTES,
    ),
    describe=restoring.describe,
    restore=restoring.restore,
)
