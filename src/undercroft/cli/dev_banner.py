"""What a development server says when it is ready."""

from pathlib import Path


def banner(address: str, unseal_key: str, root_token: str, *, ca: Path | None, stored: bool) -> str:
    """The lines, with the names that scripts look for: `Unseal Key:`, `Root Token:`."""
    lines = [
        "",
        "WARNING! This is a development server: it keeps everything in memory, is unsealed with",
        "a single key, and shows its secrets here. Everything is gone when it stops.",
        "",
        "For the commands of another terminal:",
        "",
        f"    $ export VAULT_ADDR='{address}'",
    ]
    if ca is not None:
        lines.append(f"    $ export VAULT_CACERT='{ca}'")
    if stored:
        lines += [
            "",
            "The root token is kept for them: `undercroft status` and the rest just work.",
        ]
    lines += [
        "",
        f"Unseal Key: {unseal_key}",
        f"Root Token: {root_token}",
        "",
        "Never use a development server in production!",
        "",
    ]
    return "\n".join(lines)
