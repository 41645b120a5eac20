"""The API of a primary as a cluster that joins reaches it: how it is believed, how it is asked.

It knows nothing of what is in an answer. Each failure says which step it was and what can be done.
"""

import contextlib
import http.client
import socket
import ssl
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec
from cryptography import x509

from undercroft.errors import InvalidRequest, Unavailable
from undercroft.replication import authority

SECONDS: Final = 10.0
_BODY_MAX: Final = 1 << 20


class Trust(msgspec.Struct, frozen=True):
    """How the primary's API is believed: PEM files or text; nothing: the system's roots."""

    ca_file: str = ""
    ca_path: str = ""
    ca_cert: str = ""
    client_cert_pem: str = ""
    client_key_pem: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises InvalidRequest for what cannot be read."""
        try:
            context = ssl.create_default_context(
                cafile=self.ca_file or None,
                capath=self.ca_path or None,
                cadata=self.ca_cert or None,
            )
            if self.ca_path:
                _load_directory(context, Path(self.ca_path))
        except (OSError, ssl.SSLError, ValueError, TypeError) as error:
            raise InvalidRequest(
                f"ca_file, ca_path or ca_cert cannot be used: {reason(error)}"
            ) from None
        if self.client_cert_pem or self.client_key_pem:
            try:
                authority.load_pem(context, self.client_cert_pem + "\n" + self.client_key_pem)
            except (OSError, ssl.SSLError):
                raise InvalidRequest("client_cert_pem and client_key_pem cannot be used") from None
        return context


def _load_directory(context: ssl.SSLContext, directory: Path) -> None:
    """Every certificate in it, whatever the files are called. Raises OSError, ValueError."""
    loaded = False
    for file in sorted(directory.iterdir()):
        if file.is_file():
            with contextlib.suppress(ssl.SSLError):  # it has no certificate
                context.load_verify_locations(cafile=file)
                loaded = True
    if not loaded:
        raise ValueError(f"no certificate in {directory}")


class PrimaryApi:
    """One address, `https://host:port`. Raises InvalidRequest for what is none."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        try:
            url = urlsplit(address)
            port = url.port
        except ValueError:
            url, port = urlsplit(""), None
        if url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
            raise InvalidRequest("primary_api_addr must be a URL: https://host:port")
        self.address = address
        self._host = url.hostname
        self._port = port or (443 if url.scheme == "https" else 80)
        self._context = context if url.scheme == "https" else None

    def ask(self: Self, method: str, path: str, token: str = "") -> tuple[int, bytes]:
        """Status and body of an answer. Raises Unavailable."""
        connection = self._connection()
        try:
            headers = {"X-Vault-Token": token} if token else {}
            connection.request(method, f"/v1/{path}", headers=headers)
            response = connection.getresponse()
            return response.status, response.read(_BODY_MAX)
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(
                f"the certificate of the primary's API at {self.address} is not trusted: "
                f"{error.verify_message}{self._shown_certificate()}",
                hint="give ca_file, ca_path or ca_cert",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"the primary's API at {self.address} cannot be reached: {reason(error)}",
                hint="give primary_api_addr if it is reached elsewhere",
            ) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=SECONDS)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=SECONDS, context=self._context
        )

    def _shown_certificate(self) -> str:
        """Whose certificate it is, and who signed it; nothing is sent to who shows it."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection((self._host, self._port), timeout=SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=self._host) as sock,
            ):
                shown = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")
                names = shown.subject.rfc4514_string(), shown.issuer.rfc4514_string()
        except (OSError, ValueError):
            return ""
        subject, issuer = (name[:200] or "none" for name in names)
        return f"; subject: {subject}; issuer: {issuer}"


def reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {SECONDS:.0f} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'failed'}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
