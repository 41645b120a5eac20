"""Every command and its flags, in one table: parsing, help and documentation come from it.

Commands are named by the function that runs them and imported when they run, so that
`undercroft status` does not pay for the server.
"""

from typing import Final

from undercroft.cli.flags import CLIENT, FIELD, FORMAT, SECRET, Command, Flag, from_variables
from undercroft.cli.replication.commands import REPLICATION

_SERVER: Final = (
    Flag("config", "Configuration file or directory; may be repeated.", "PATH", repeats=True),
    Flag("log-level", "`trace`, `debug`, `info`, `warn` or `error`.", "LEVEL"),
    Flag("log-format", "`standard` or `json`.", "FORMAT"),
    Flag("log-file", "File to log to, besides standard error.", "FILE"),
    Flag("workers", "API worker processes.", "N"),
    Flag("dev", "A server to try things out: in memory, unsealed.", is_switch=True),
    Flag(
        "dev-root-token-id",
        "Root token of the development server.",
        "TOKEN",
        variables=from_variables("DEV_ROOT_TOKEN_ID"),
    ),
    Flag(
        "dev-listen-address",
        "Its address.",
        "HOST:PORT",
        variables=from_variables("DEV_LISTEN_ADDRESS"),
    ),
    Flag("dev-tls", "Serve TLS with a certificate made for it.", is_switch=True),
    Flag("dev-tls-cert-dir", "Where to make that certificate.", "DIR"),
    Flag(
        "dev-no-store-token",
        "Do not log the command line in with the root token.",
        is_switch=True,
    ),
)

COMMANDS: Final = (
    Command(
        "server",
        "Run a server",
        "server:server",
        flags=_SERVER,
        example="undercroft server -config=/etc/undercroft",
    ),
    Command(
        "status",
        "Show whether the server is sealed; exit code 2 if it is",
        "status:status",
        flags=CLIENT,
        example="undercroft status",
    ),
    Command(
        "login",
        "Log in and keep the token for later commands",
        "login:login",
        "[TOKEN | - | NAME=VALUE…]",
        most=None,
        flags=(
            *CLIENT,
            FIELD,
            Flag("method", "`token` (default), `userpass`, `ldap` or `radius`.", "METHOD"),
            Flag("path", "Where the method is mounted, if not at its own name.", "PATH"),
            Flag("no-store", "Do not keep the token.", is_switch=True),
            Flag("no-print", "Do not show the token.", is_switch=True),
            Flag("token-only", "Print only the token and keep nothing.", is_switch=True),
        ),
        example="undercroft login -method=userpass username=ada",
    ),
    Command(
        "read",
        "Read a path",
        "generic:read",
        "PATH [NAME=VALUE…]",
        least=1,
        most=None,
        flags=SECRET,
        example="undercroft read -field=password kv/app",
    ),
    Command(
        "write",
        "Write to a path",
        "generic:write",
        "PATH [NAME=VALUE | NAME=@FILE | NAME=- | @FILE | -]…",
        least=1,
        most=None,
        flags=(
            *SECRET,
            Flag("force", "Allow a write without data.", is_switch=True, other=("f",)),
        ),
        example="undercroft write kv/app user=app password=@password.txt",
    ),
    Command(
        "list",
        "List what is below a path",
        "generic:list_path",
        "PATH",
        least=1,
        most=1,
        flags=CLIENT,
        example="undercroft list kv/",
    ),
    Command(
        "delete",
        "Delete what a path holds",
        "generic:delete",
        "PATH [NAME=VALUE…]",
        least=1,
        most=None,
        flags=SECRET,
        example="undercroft delete kv/app",
    ),
    Command(
        "operator init",
        "Initialise a new server: make its root key and split it into shares",
        "operator:init",
        flags=(
            *CLIENT,
            Flag("key-shares", "How many key shares.", "N", other=("n",)),
            Flag("key-threshold", "How many of them unseal.", "N", other=("t",)),
            Flag("recovery-shares", "The same, of recovery keys, with a static seal.", "N"),
            Flag("recovery-threshold", "How many recovery keys are a quorum.", "N"),
            Flag(
                "status",
                "Only tell: exit code 0 initialised, 2 not initialised.",
                is_switch=True,
            ),
        ),
        example="undercroft operator init -key-shares=5 -key-threshold=3",
    ),
    Command(
        "operator unseal",
        "Give a key share to a sealed server",
        "operator:unseal",
        "[KEY | -]",
        most=1,
        flags=(*CLIENT, Flag("reset", "Forget the shares given so far.", is_switch=True)),
        example="undercroft operator unseal",
    ),
    Command(
        "operator seal",
        "Seal the server: it forgets its keys",
        "operator:seal",
        flags=CLIENT,
        example="undercroft operator seal",
    ),
    Command(
        "operator rotate",
        "Add a key term that encrypts from now on",
        "operator:rotate",
        flags=CLIENT,
        example="undercroft operator rotate",
    ),
    Command(
        "operator key-status",
        "Show the active key term",
        "operator:key_status",
        flags=CLIENT,
        example="undercroft operator key-status",
    ),
    Command(
        "operator generate-root",
        "Make a root token from a quorum of key shares",
        "generate_root:generate_root",
        "[KEY | -]",
        most=1,
        flags=(
            *CLIENT,
            Flag("init", "Start an attempt; prints its nonce and OTP.", is_switch=True),
            Flag("status", "Show the attempt.", is_switch=True),
            Flag("cancel", "Give the attempt up.", is_switch=True),
            Flag("nonce", "The attempt that the key share is for.", "NONCE"),
            Flag("otp", "One-time password: with -decode, or to bring one to -init.", "OTP"),
            Flag("decode", "Decode the encoded token; `-` reads it from standard input.", "TOKEN"),
            Flag("generate-otp", "Only make an OTP and print it.", is_switch=True),
        ),
        example="undercroft operator generate-root -init",
    ),
    Command(
        "operator check",
        "Verify the data of a stopped server, every entry of it",
        "check:check",
        "DIRECTORY",
        least=1,
        most=1,
        flags=(FORMAT,),
        example="undercroft operator check /var/lib/undercroft",
    ),
    *REPLICATION,
    Command(
        "demo",
        "Show a server at work: TLS, policies, kill -9, restart",
        "demo:demo",
        example="undercroft demo",
    ),
    Command("version", "Show the version", "version:version", example="undercroft version"),
)
