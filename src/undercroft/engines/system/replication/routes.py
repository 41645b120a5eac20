"""The paths of sys/replication: three families over one set of handlers.

The founding page's misspelt and misplaced URLs are in `MISSPELT` and nowhere else: whoever uses one
is authorised, audited and served under the right path, and warned.
"""

from typing import Final

from undercroft.engines.base import Apply, Call, Field, Handler, Kind, Route, reads, writes
from undercroft.engines.system.replication import (
    filters,
    primary,
    quarantine,
    secondary,
    status,
)
from undercroft.errors import InvalidRequest
from undercroft.request.model import Operation, Response

# As on the founding page -> as it should be. POST and PUT only.
MISSPELT: Final = {
    "sys/repliation/primary/enable": "sys/replication/primary/enable",
    "sys/repliation/primary/demote": "sys/replication/primary/demote",
    "sys/repliation/primary/disable": "sys/replication/primary/disable",
    "sys/replication/secondary/revoke-secondary": "sys/replication/primary/revoke-secondary",
}

_ADDRESS: Final = Field(
    "primary_cluster_addr",
    doc="Address given to secondaries instead of the cluster address, https://host:port.",
)
_ID: Final = Field("id", doc="The name of the secondary.")
_TOKEN_FIELDS: Final = (
    _ID,
    Field("ttl", Kind.DURATION, "How long the token is good, 24h at most.", default=1800),
    Field("secondary_public_key", doc="Seal the credentials for this key instead of wrapping."),
    Field("promotable", Kind.BOOL, "Whether the secondary may take over.", default=True),
    Field("forward_root", Kind.BOOL, "Whether it may vouch for root tokens.", default=False),
    Field("policy_ceiling", Kind.LIST, "The only policies that it may vouch for."),
)
_TRUST_FIELDS: Final = (
    Field("primary_api_addr", doc="URL of the primary's API, if not the one in the token."),
    Field("ca_file", doc="PEM file on the server to verify the primary's API by."),
    Field("ca_path", doc="Directory of PEM files on the server."),
    Field("ca_cert", doc="The same as text."),
    Field("client_cert_pem", doc="Certificate for a primary that demands one."),
    Field("client_key_pem", doc="Its key."),
)
_FORCE: Final = Field("force", Kind.BOOL, "Go ahead although data may be lost.", default=False)
_FILTER_FIELDS: Final = (
    Field("mode", doc="`allow`: only these paths go; `deny`: all but these.", default="allow"),
    Field("paths", Kind.LIST, "Mounts, e.g. secret/ or auth/ldap/."),
)
_WARNED: Final = "It changes the role of this cluster."


def _primary_routes(family: str) -> tuple[Route, ...]:
    """`family` is `performance/`, or empty for the paths of Vault 0.7."""
    at = f"replication/{family}primary"
    twin = "" if family else "replication/performance/primary"

    def route(name: str, apply: Apply, fields: tuple[Field, ...], summary: str) -> Route:
        twin_path = f"{twin}/{name}" if twin else ""
        return Route(f"{at}/{name}", writes(apply, summary=summary), fields=fields, twin=twin_path)

    token = Handler(
        primary.secondary_token, writes=True, summary="Makes an activation token for a secondary."
    )
    return (
        route("enable", primary.enable, (_ADDRESS,), "Makes this cluster a primary."),
        route("demote", primary.demote, (), "Makes this primary a detached secondary."),
        route("disable", primary.disable, (), "Ends the replication set."),
        route("revoke-secondary", primary.revoke_secondary, (_ID,), "Shuts a secondary out."),
        Route(
            f"{at}/secondary-token",
            {Operation.READ: token, Operation.CREATE: token, Operation.UPDATE: token},
            fields=_TOKEN_FIELDS,
            sudo=True,
            twin=f"{twin}/secondary-token" if twin else "",
        ),
    )


def _secondary_routes(family: str) -> tuple[Route, ...]:
    at = f"replication/{family}secondary"
    twin = "" if family else "replication/performance/secondary"

    def twin_of(name: str) -> str:
        return f"{twin}/{name}" if twin else ""

    return (
        Route(
            f"{at}/enable",
            writes(
                secondary.enable,
                prepare=secondary.prepare_enable,
                summary="Makes this cluster a secondary; its data is replaced.",
            ),
            fields=(Field("token", doc="The activation token."), *_TRUST_FIELDS),
            twin=twin_of("enable"),
        ),
        Route(
            f"{at}/promote",
            writes(
                secondary.promote,
                prepare=secondary.prepare_promote,
                summary="Makes this secondary the primary.",
            ),
            fields=(_ADDRESS, _FORCE),
            twin=twin_of("promote"),
        ),
        Route(
            f"{at}/disable",
            writes(secondary.disable, summary="Leaves the set and keeps the data."),
            twin=twin_of("disable"),
        ),
        Route(
            f"{at}/update-primary",
            writes(
                secondary.update_primary,
                prepare=secondary.prepare_update,
                summary="Follows another primary of the same set, without a wipe.",
            ),
            fields=(
                Field("token", doc="An activation token; empty: follow nobody."),
                Field("update_primary_addrs", Kind.LIST, "New addresses of the same primary."),
                *_TRUST_FIELDS,
            ),
            twin=twin_of("update-primary"),
        ),
    )


def _not_yet(call: Call) -> Response:
    raise InvalidRequest(
        "disaster-recovery replication is not supported yet",
        hint="performance replication is: sys/replication/performance/",
    )


_NOT_YET: Final = Handler(_not_yet)
_WRITTEN: Final = (Operation.CREATE, Operation.UPDATE)
_DR_METHODS: Final = {
    "primary/secondary-token": (Operation.READ, *_WRITTEN),
    "secondary/generate-operation-token/attempt": (Operation.READ, *_WRITTEN, Operation.DELETE),
}
_DR: Final = tuple(
    Route(
        f"replication/dr/{name}",
        dict.fromkeys(_DR_METHODS.get(name, _WRITTEN), _NOT_YET),
        raw_body=True,
        summary="Not supported yet.",
    )
    for name in (
        "primary/enable",
        "primary/demote",
        "primary/disable",
        "primary/secondary-token",
        "primary/revoke-secondary",
        "secondary/enable",
        "secondary/promote",
        "secondary/disable",
        "secondary/update-primary",
        "secondary/generate-public-key",
        "secondary/recover",
        "secondary/reindex",
        "secondary/merkle-check",
        "secondary/generate-operation-token/attempt",
        "secondary/generate-operation-token/update",
        "secondary/operation-token/delete",
        "reindex",
    )
)

_MERKLE: Final = Handler(
    status.merkle_check,
    writes=True,
    prepare=status.prepare_merkle_check,
    summary="Reads and authenticates every entry.",
)

ROUTES: Final = (
    *_primary_routes(""),
    *_primary_routes("performance/"),
    *_secondary_routes(""),
    *_secondary_routes("performance/"),
    Route(
        "replication/performance/secondary/generate-public-key",
        writes(secondary.generate_public_key, summary="Makes a key to seal a token for."),
    ),
    Route(
        "replication/status",
        reads(status.both, summary="How replication is going, of both types."),
        open=True,
    ),
    Route(
        "replication/performance/status",
        reads(status.performance, summary="How performance replication is going."),
        open=True,
    ),
    Route(
        "replication/dr/status",
        reads(status.disaster_recovery, summary="Disaster-recovery replication is not in use."),
        open=True,
    ),
    Route(
        "replication/recover",
        writes(status.recover, prepare=status.prepare_recover, summary="Looks again."),
    ),
    *(
        Route(
            f"replication/{family}reindex",
            writes(
                status.reindex,
                prepare=status.prepare_reindex,
                summary="Makes the digest tree anew if it is not what the entries say.",
            ),
            fields=(
                Field("diff", Kind.BOOL, "Without effect: entries are always compared."),
                Field("force", Kind.BOOL, "Without effect: storage is always read."),
                Field("skip_flush", Kind.BOOL, "Without effect: nothing is locked."),
            ),
            sudo=True,
        )
        for family in ("", "performance/")
    ),
    Route(
        "replication/merkle-check",
        {Operation.READ: _MERKLE, Operation.CREATE: _MERKLE, Operation.UPDATE: _MERKLE},
    ),
    Route(
        "replication/performance/primary/paths-filter/{id}",
        {
            **reads(filters.read, summary="What a secondary may not have."),
            **writes(filters.write, summary="Sets it."),
            Operation.DELETE: Handler(filters.delete, writes=True, summary="Lets everything go."),
        },
        fields=_FILTER_FIELDS,
    ),
    Route(
        "replication/performance/primary/mount-filter/{id}",
        {
            **reads(filters.read_old, summary="The same under its older words."),
            **writes(filters.write, summary="Sets it."),
            Operation.DELETE: Handler(filters.delete, writes=True, summary="Lets everything go."),
        },
        fields=_FILTER_FIELDS,
    ),
    Route(
        "replication/performance/primary/dynamic-filter/{id}",
        reads(filters.dynamic_at_primary, summary="What a secondary lacks now."),
    ),
    Route(
        "replication/performance/secondary/dynamic-filter/{id}",
        reads(filters.dynamic_at_secondary, summary="What this secondary lacks now."),
    ),
    Route(
        "replication/quarantine",
        reads(quarantine.list_all, summary="Writes that a failover set aside."),
        sudo=True,
    ),
    Route(
        "replication/quarantine/{id}",
        {
            **reads(quarantine.read, summary="One of them, with its value."),
            Operation.DELETE: Handler(quarantine.discard, writes=True, summary="Drops it."),
        },
        sudo=True,
    ),
    Route(
        "replication/quarantine/{id}/restore",
        writes(quarantine.restore, summary="Writes it again."),
        sudo=True,
    ),
    *_DR,
)
