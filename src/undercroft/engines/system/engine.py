"""The system engine, mounted at sys/: one route table put together from its parts."""

from typing import Final

from undercroft.engines.base import Engine
from undercroft.engines.system import (
    audit,
    health,
    internal,
    locked_users,
    metrics,
    mounts,
    openapi,
    policies,
    seal,
    tools,
    wrapping,
)
from undercroft.engines.system.replication import routes as replication

SYSTEM_ENGINE: Final = Engine(
    type="system",
    description="system endpoints used for control, policy and debugging",
    routes=(
        *audit.ROUTES,
        *health.ROUTES,
        *internal.ROUTES,
        *locked_users.ROUTES,
        *metrics.ROUTES,
        *mounts.ROUTES,
        *openapi.ROUTES,
        *policies.ROUTES,
        *replication.ROUTES,
        *seal.ROUTES,
        *tools.ROUTES,
        *wrapping.ROUTES,
    ),
)
