"""The policies that a cluster starts with.

They grant what the same policies grant elsewhere, as clients rely on it. Operators may edit
`default`; `response-wrapping` belongs to the tokens that wrapped answers wait behind.
"""

from collections.abc import Mapping
from typing import Final

DEFAULT: Final = "default"
RESPONSE_WRAPPING: Final = "response-wrapping"

_DEFAULT_TEXT: Final = """\
# The token itself: what it is, longer life, its end.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# What the token may do, for one path or, for user interfaces, all of it.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
path "sys/internal/ui/resultant-acl" {
  capabilities = ["read"]
}

# The entity behind the token, by its id or name.
path "identity/entity/id/{{identity.entity.id}}" {
  capabilities = ["read"]
}
path "identity/entity/name/{{identity.entity.name}}" {
  capabilities = ["read"]
}

# Leases: whoever knows an id may ask about it and renew it. The second path is for old clients.
path "sys/leases/renew" {
  capabilities = ["update"]
}
path "sys/renew" {
  capabilities = ["update"]
}
path "sys/leases/lookup" {
  capabilities = ["update"]
}

# The token's own cubbyhole.
path "cubbyhole/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

# Wrapping: wrap any values; look at, and open, what somebody else wrapped.
path "sys/wrapping/wrap" {
  capabilities = ["update"]
}
path "sys/wrapping/lookup" {
  capabilities = ["update"]
}
path "sys/wrapping/unwrap" {
  capabilities = ["update"]
}

# Hashing, which needs no secret.
path "sys/tools/hash" {
  capabilities = ["update"]
}
path "sys/tools/hash/*" {
  capabilities = ["update"]
}

# Signing in to other services through an OIDC provider; the provider decides who may.
path "identity/oidc/provider/+/authorize" {
  capabilities = ["read", "update"]
}
"""

_RESPONSE_WRAPPING_TEXT: Final = """\
# A token that holds one wrapped answer: open it, or throw it away.
path "cubbyhole/response" {
  capabilities = ["create", "read"]
}
path "sys/wrapping/unwrap" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
"""

TEXTS: Final[Mapping[str, str]] = {
    DEFAULT: _DEFAULT_TEXT,
    RESPONSE_WRAPPING: _RESPONSE_WRAPPING_TEXT,
}
