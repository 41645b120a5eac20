"""`undercroft server`: reads the configuration, sets logging up, and runs the node."""

import argparse
import contextlib
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from undercroft.cli import token_file
from undercroft.cli.dev_banner import banner
from undercroft.cli.failure import CommandError, UsageError
from undercroft.config import Flags, Loaded, Settings, development, load
from undercroft.errors import UndercroftError
from undercroft.observe import logs

if TYPE_CHECKING:
    from undercroft.node.run import DevOptions

_DEV_FLAGS = (
    "dev_root_token_id",
    "dev_listen_address",
    "dev_tls",
    "dev_tls_cert_dir",
    "dev_no_store_token",
)


def server(values: argparse.Namespace) -> int:
    os.umask(0o077)  # whatever the shell's was: what a server writes is its owner's (SEAL-05)
    try:
        with _certificates(values) as certificates:
            loaded = _settings(values, certificates)
            _start_logging(loaded)
            from undercroft.node.run import run  # a mistake in the configuration shows sooner

            with pid_file(loaded.settings.pid_file):
                return run(loaded.settings, _dev_options(values, loaded.settings, certificates))
    except UndercroftError as error:
        problems = error.message.splitlines()
        if len(problems) > 1:
            text = f"the configuration has {len(problems)} mistakes"
            raise CommandError(text, hint=error.message) from None
        raise CommandError(error.message, hint=error.hint) from None


def _settings(values: argparse.Namespace, certificates: Path | None) -> Loaded:
    flags = Flags(
        log_level=values.log_level or "",
        log_format=values.log_format or "",
        log_file=values.log_file or "",
        workers=values.workers or "",
    )
    if not (values.dev or values.dev_tls):
        given = [name for name in _DEV_FLAGS if getattr(values, name) and name != "dev_tls"]
        if given and not values.config:
            raise UsageError(f"-{given[0].replace('_', '-')} goes with -dev")
        return load(values.config or [], environment=os.environ, flags=flags)
    if values.config:
        raise UsageError("-dev takes no -config", hint="a development server has its own settings")
    cert = str(certificates / "cert.pem") if certificates else ""
    key = str(certificates / "key.pem") if certificates else ""
    settings = development(
        values.dev_listen_address or "", cert_file=cert, key_file=key, flags=flags
    )
    return Loaded(settings, ())


def _start_logging(loaded: Loaded) -> None:
    settings = loaded.settings
    try:
        logs.configure(settings.log_level, settings.log_format, settings.log_file)
    except OSError as error:
        raise CommandError(f"{settings.log_file}: cannot be opened: {error.strerror}") from None
    log = logs.get_logger("config")
    for warning in loaded.warnings:
        log.warn(warning)


@contextlib.contextmanager
def pid_file(path: str) -> Iterator[None]:
    """The process id in a file while the server runs; for all to read."""
    if not path:
        yield
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
        try:
            # Locked, not just written: a second server must not take the first one's file away.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise CommandError(
                f"{path}: a running server has this pid_file", hint="stop that one first"
            ) from None
        os.fchmod(fd, 0o644)
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:  # not when a forked child ends
            with contextlib.suppress(OSError):
                os.unlink(path)
        os.close(fd)


# Development


@contextlib.contextmanager
def _certificates(values: argparse.Namespace) -> Iterator[Path | None]:
    """The directory of the certificates for -dev-tls; a temporary one goes with the server."""
    if not values.dev_tls:
        yield None
        return
    from undercroft.cli.certificates import make_certificates

    if values.dev_tls_cert_dir:
        directory = Path(values.dev_tls_cert_dir)
        if not directory.is_dir():
            raise UsageError(f"{directory}: no such directory")
        make_certificates(directory)
        yield directory
        return
    owner = os.getpid()
    temporary = Path(tempfile.mkdtemp(prefix="undercroft-dev-tls-"))
    try:
        make_certificates(temporary)
        yield temporary
    finally:
        if os.getpid() == owner:
            for file in temporary.iterdir():
                file.unlink()
            temporary.rmdir()


def _dev_options(
    values: argparse.Namespace, settings: Settings, certificates: Path | None
) -> "DevOptions | None":
    if not (values.dev or values.dev_tls):
        return None
    from undercroft.node.run import DevOptions

    ca = certificates / "ca.pem" if certificates else None

    def ready(unseal_key: str, root_token: str) -> None:
        stored = not values.dev_no_store_token and _stored(root_token)
        print(banner(settings.api_addr, unseal_key, root_token, ca=ca, stored=stored), flush=True)

    return DevOptions(root_token=values.dev_root_token_id or "", on_ready=ready)


def _stored(token: str) -> bool:
    """Kept for the next commands; a server runs without, as in a container without a home."""
    try:
        token_file.store(token)
    except UsageError as error:
        print(f"Warning: {error.text}", file=sys.stderr)
        return False
    return True
