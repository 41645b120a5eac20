"""`undercroft login`: checks a token, or gets one from a login method, and keeps it."""

import argparse
import sys
from typing import Any, Final

from undercroft.cli import jsontext, token_file
from undercroft.cli.client import Answer, Client, client_from
from undercroft.cli.data import parse_data
from undercroft.cli.failure import OK, RemoteError, UsageError
from undercroft.cli.output import auth_rows, show_field, table
from undercroft.cli.prompt import argument_or_secret, secret

_WITH_PASSWORD: Final = ("userpass", "ldap", "radius")


def login(values: argparse.Namespace) -> int:
    method = values.method or "token"
    if method == "token":
        auth = _with_token(client_from(values, with_token=False), values)
    elif method in _WITH_PASSWORD:
        auth = _with_password(client_from(values, with_token=False), method, values)
    else:
        raise UsageError(
            f"-method must be token, {', '.join(_WITH_PASSWORD)}",
            hint="other methods: `undercroft write auth/PATH/login …`",
        )
    keep = not (values.no_store or values.token_only)
    if keep:
        token_file.store(auth["client_token"])
    return _show(auth, values, kept=keep)


def _with_token(client: Client, values: argparse.Namespace) -> dict[str, Any]:
    if len(values.arguments) > 1:
        raise UsageError("too many arguments", hint="undercroft login [TOKEN | -]")
    given = [word.removeprefix("token=") for word in values.arguments]
    values.arguments = given
    token = token_file.checked(argument_or_secret("Token", values), "the token given")
    if not token:
        raise UsageError("the token is empty")
    client.token = token
    found = _called(client, "GET", "auth/token/lookup-self", None).body["data"]
    return {
        "client_token": token,
        "accessor": found.get("accessor"),
        "lease_duration": found.get("ttl"),
        "renewable": found.get("renewable"),
        "token_policies": found.get("policies"),
        "identity_policies": found.get("identity_policies"),
        "policies": sorted({*found["policies"], *(found.get("identity_policies") or ())}),
        "metadata": found.get("meta"),
    }


def _with_password(client: Client, method: str, values: argparse.Namespace) -> dict[str, Any]:
    data = parse_data(values.arguments)
    path = (values.path or method).strip("/")
    user = data.pop("username", "")
    if not isinstance(user, str) or not user:
        raise UsageError("username=NAME is missing")
    if "password" not in data:
        data["password"] = secret("Password", values, instead="give password=- and standard input")
    answer = _called(client, "PUT", f"auth/{path}/login/{user}", data)
    auth: dict[str, Any] = answer.body["auth"]
    return auth


def _called(client: Client, method: str, path: str, data: Any) -> Answer:
    answer = client.call(method, path, data)
    body = answer.body
    if not isinstance(body, dict) or not (body.get("auth") or body.get("data")):
        raise RemoteError("the server's answer holds no login")
    return answer


def _show(auth: dict[str, Any], values: argparse.Namespace, *, kept: bool) -> int:
    if values.token_only:
        return show_field({"auth": auth}, "token", None)
    if values.field is not None:
        return show_field({"auth": auth}, values.field, values.format)
    shown = dict(auth)
    if values.no_print:
        shown["client_token"] = "(not shown)"  # noqa: S105
    if values.format == "json":
        print(jsontext.encode({"auth": shown}))
        return OK
    variable = token_file.from_environment()
    if kept and variable:
        print(f"Warning: {variable} is set and beats the token kept now.", file=sys.stderr)
    if kept:
        print("Success! You are logged in; later commands use this token.\n")
    else:
        print("Success! The token was not kept.\n")
    print(table(auth_rows(shown)))
    return OK
