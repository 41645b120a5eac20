"""`undercroft operator generate-root`: a new root token, from a quorum of key shares.

The server hides the token with a one-time password that only who started the attempt has seen, so
those who give the shares do not get the token. The attempt itself needs a token of its own
(`sys/generate-root-token`): nobody can hold the slot from outside.
"""

import argparse
import base64
import binascii
import secrets
import string
import sys
from collections.abc import Mapping
from typing import Any, Final

from undercroft.cli import jsontext
from undercroft.cli.client import Client, client_from
from undercroft.cli.failure import OK, UsageError
from undercroft.cli.output import go_text, table
from undercroft.cli.prompt import argument_or_secret

_ATTEMPT: Final = "sys/generate-root-token/attempt"
_UPDATE: Final = "sys/generate-root-token/update"
_OTP_ALPHABET: Final = string.ascii_letters + string.digits


def generate_root(values: argparse.Namespace) -> int:
    if values.decode:
        return _decode(values)
    client = client_from(values)
    if values.generate_otp:
        length = int(_called(client, "GET", _ATTEMPT)["otp_length"])
        print("".join(secrets.choice(_OTP_ALPHABET) for _ in range(length)))
        return OK
    if values.init:
        body = _called(client, "PUT", _ATTEMPT, {"otp": values.otp} if values.otp else {})
        if body.get("otp") and values.format != "json":
            print("Keep the OTP: the token is unreadable without it.\n", file=sys.stderr)
        return _show(body, values)
    if values.cancel:
        client.call("DELETE", _ATTEMPT)
        print("Success! There is no attempt any more.")
        return OK
    if values.status:
        return _show(_called(client, "GET", _ATTEMPT), values)
    return _give_share(client, values)


def _give_share(client: Client, values: argparse.Namespace) -> int:
    attempt = _called(client, "GET", _ATTEMPT)
    if not attempt.get("started"):
        raise UsageError("no attempt is under way", hint="start one with -init")
    nonce = values.nonce or attempt["nonce"]
    if values.nonce is None and values.arguments and values.arguments[0] != "-":
        raise UsageError(
            "a key share given as an argument needs -nonce",
            hint="so that it cannot go to an attempt that somebody else has started",
        )
    if values.nonce is None:
        print(f"Nonce of the attempt: {nonce}", file=sys.stderr)
    key = argument_or_secret("Unseal key", values)
    return _show(_called(client, "PUT", _UPDATE, {"key": key, "nonce": nonce}), values)


def _called(client: Client, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """The attempt as the server tells it, inside the usual envelope or bare."""
    found: dict[str, Any] = client.call(method, path, body).body
    inner = found.get("data")
    return inner if isinstance(inner, dict) else found


def _show(body: Mapping[str, Any], values: argparse.Namespace) -> int:
    if values.format == "json":
        print(jsontext.encode(dict(body)))
        return OK
    rows = [
        ("Nonce", body.get("nonce") or "n/a"),
        ("Started", go_text(body.get("started"))),
        ("Progress", f"{go_text(body.get('progress'))}/{go_text(body.get('required'))}"),
        ("Complete", go_text(body.get("complete"))),
    ]
    encoded = body.get("encoded_token") or body.get("encoded_root_token")
    rows += [("Encoded Token", encoded)] if encoded else []
    rows += [("OTP", body["otp"])] if body.get("otp") else []
    rows += [("OTP Length", go_text(body["otp_length"]))] if body.get("otp_length") else []
    print(table(rows, ()))
    return OK


def _decode(values: argparse.Namespace) -> int:
    if not values.otp:
        raise UsageError("-decode needs -otp")
    encoded = sys.stdin.readline().strip() if values.decode == "-" else values.decode
    try:
        hidden = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        otp = values.otp.encode("ascii")
        token = bytes(a ^ b for a, b in zip(hidden, otp, strict=True)).decode("ascii")
    except (ValueError, binascii.Error):
        raise UsageError("the encoded token and the OTP do not belong together") from None
    if not token.isprintable():
        raise UsageError("the encoded token and the OTP do not belong together")
    print(jsontext.encode({"token": token}) if values.format == "json" else token)
    return OK
