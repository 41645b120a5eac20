"""What a command and a flag are, and the flags that many commands share."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Flag:
    """`-name=VALUE`, or with `is_switch` just `-name`; two dashes do as well as one."""

    name: str
    doc: str
    value: str = "TEXT"
    is_switch: bool = False
    repeats: bool = False
    choices: tuple[str, ...] = ()
    other: tuple[str, ...] = ()  # more names
    starts_on: bool = False  # of a switch: `-name=false` turns it off
    variables: tuple[str, ...] = ()  # environment, the first that is set counts

    @property
    def dest(self) -> str:
        return self.name.replace("-", "_")


@dataclass(frozen=True)
class Command:
    name: str
    summary: str
    run: str  # module:function, taking the parsed arguments and answering the exit code
    arguments: str = ""
    least: int = 0  # how many arguments
    most: int | None = 0
    flags: tuple[Flag, ...] = ()
    example: str = ""


def from_variables(*names: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in names for prefix in ("BAO_", "VAULT_"))


FORMAT: Final = Flag(
    "format",
    "How results are shown.",
    "table|json",
    choices=("table", "json"),
    variables=from_variables("FORMAT"),
)
FIELD: Final = Flag("field", "Print only this field of the result, without a line's end.")
_CONNECTION: Final = (
    Flag("address", "URL of the server.", "URL", variables=from_variables("ADDR")),
    Flag("ca-cert", "PEM file of the CA to trust.", "FILE", variables=from_variables("CACERT")),
    Flag(
        "ca-path",
        "Directory of PEM files of CAs to trust.",
        "DIR",
        variables=from_variables("CAPATH"),
    ),
    Flag(
        "client-cert",
        "PEM file to show the server.",
        "FILE",
        variables=from_variables("CLIENT_CERT"),
    ),
    Flag("client-key", "Its private key.", "FILE", variables=from_variables("CLIENT_KEY")),
    Flag(
        "tls-server-name",
        "Name that the server's certificate must have.",
        "NAME",
        variables=from_variables("TLS_SERVER_NAME"),
    ),
    Flag(
        "tls-skip-verify",
        "Do not verify the server's certificate. Anyone between can read everything.",
        is_switch=True,
        variables=from_variables("SKIP_VERIFY"),
    ),
    Flag(
        "namespace",
        "Namespace of the request.",
        "NAME",
        other=("ns",),
        variables=from_variables("NAMESPACE"),
    ),
    Flag("header", "A header to add; may be repeated.", "NAME=VALUE", repeats=True),
    Flag("non-interactive", "Never ask for input.", is_switch=True),
)
_WRAP: Final = Flag(
    "wrap-ttl",
    "Ask for the answer in a wrapping token of this TTL.",
    "DURATION",
    variables=from_variables("WRAP_TTL"),
)
CLIENT: Final = (*_CONNECTION, FORMAT)
SECRET: Final = (*CLIENT, _WRAP, FIELD)
