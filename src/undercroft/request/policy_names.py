"""Policy names as given to tokens, roles and users: canonical, and never root by guile."""

import unicodedata
from collections.abc import Iterable

from undercroft.errors import InvalidRequest


def _bare(name: str) -> str:
    """What is left of a name for the eye: compatibility forms folded, nothing invisible."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] not in "CMZ")


def check_policy_names(names: Iterable[str], *, root: bool = False) -> list[str]:
    """Lower-cased, trimmed, unique, sorted; empty names dropped.

    `root=True` lets the policy `root` itself pass (a root token makes another). What only looks
    like it (`root` and a zero-width space, full-width letters) is refused always (ID-01).
    """
    found = {name.strip().lower() for name in names} - {""}
    for name in found:
        if (name != "root" or not root) and (name == "root" or _is_look_alike(name)):
            raise InvalidRequest("the policy root, or a name that looks like it, cannot be given")
    return sorted(found)


def _is_look_alike(name: str) -> bool:
    return not name.isascii() and _bare(name) == "root"
