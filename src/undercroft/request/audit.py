"""The auditor of one process: every request and every answer, on every declared device.

When no device could record an entry AuditFailed is raised, and the caller serves nothing (AUD-11):
an entry is in the kernel's hands before its request takes effect or its answer leaves. Salts are
entries of the barrier, so there is no auditing, and nothing to audit, while the node is sealed.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from undercroft.durations import rfc3339
from undercroft.errors import AuditFailed, UndercroftError
from undercroft.observe.metrics import Metrics
from undercroft.request.audit_devices import Declared, file_options, open_sink
from undercroft.request.audit_entry import EntryFormat
from undercroft.request.model import Request, Response
from undercroft.request.mounts import Mount
from undercroft.request.redact import SALT_BYTES, Clear, Hashed
from undercroft.storage.keys import AUDIT, LOCAL, SHARED, SYSTEM
from undercroft.storage.view import Snapshot, Space

if TYPE_CHECKING:
    from undercroft.request.tokens import TokenEntry

HEADERS_ENTRY: Final = "audited-headers"

# Asked all the time, by load balancers and before there is a salt: not audited, as in Vault.
_SILENT: Final = frozenset(
    f"sys/{name}" for name in ("health", "init", "leader", "seal-status", "unseal")
)


class AuditedHeaders(msgspec.Struct, frozen=True):
    """Request headers that are audited, by lower-case name: whether they are hashed."""

    headers: dict[str, bool] = {}


class _Device:
    """One device of this process: its sink, its salt, its way to write entries."""

    def __init__(self, device: Declared, data_directory: Path | None) -> None:
        self.device = device
        self.options = file_options(device, data_directory)
        self.sink = open_sink(device, self.options)
        self.hashed: Hashed | None = None
        self.format: EntryFormat | None = None  # None without a salt: nothing can be recorded
        self.failing = False

    @property
    def salt_name(self) -> str:
        return f"audit/{self.device.path}salt"

    def set_salt(self, salt: bytes | None) -> None:
        self.hashed = self.format = None
        if salt is not None:
            self.hashed = Hashed(salt)
            showing = Clear() if self.options.log_raw else self.hashed
            self.format = EntryFormat(showing, self.options)


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Auditor:
    """Made before the node is unsealed; raises InvalidRequest for a device that cannot work.

    `active` says whether anything is recorded: look at it first. `token` is always the entry of
    `request.token`, or None when there is none.
    """

    def __init__(
        self,
        devices: Sequence[Declared] = (),
        *,
        data_directory: Path | None = None,
        metrics: Metrics | None = None,
        warn: Callable[[str], None] = _to_stderr,
    ) -> None:
        self.active = False
        self._devices = [_Device(device, data_directory) for device in devices]
        self._metrics = metrics
        self._warn = warn
        self._headers: dict[str, bool] = {}
        self._generation = -1
        self._ready = False  # every salt is known
        self._second = (-1, "")  # a second and its text: formatting a time costs more than hashing

    # state

    def activate(self) -> None:
        """The node is unsealed: from now on nothing goes unrecorded."""
        self.active = bool(self._devices)

    def forget(self) -> None:
        """The node is sealed: salts and everything made with them go."""
        self.active = self._ready = False
        self._generation = -1
        for device in self._devices:
            device.set_salt(None)

    def refresh(self, view: Snapshot) -> None:
        """See what has changed: salts, and which headers are audited. Cheap when nothing has."""
        generation = view.generation
        if generation == self._generation and self._ready:
            return
        salts = Space(view, LOCAL, AUDIT)
        for device in self._devices:
            if device.hashed is None:
                device.set_salt(salts.get(device.salt_name))
        stored = Space(view, SHARED, SYSTEM).read(HEADERS_ENTRY, AuditedHeaders)
        self._headers = stored.headers if stored is not None else {}
        self._ready = all(device.hashed is not None for device in self._devices)
        self._generation = generation

    def ensure_salts(self, tx: Snapshot, random: Callable[[int], bytes] = os.urandom) -> None:
        """Give every new device its salt, in the writer. A salt stays for good."""
        salts = Space(tx, LOCAL, AUDIT)
        for device in self._devices:
            if not salts.exists(device.salt_name):
                salts.put(device.salt_name, random(SALT_BYTES))

    def reopen(self) -> None:
        """SIGHUP: go on in new files after a rotation; a file that cannot be had keeps the old."""
        for device in self._devices:
            try:
                device.sink.reopen()
            except UndercroftError as error:
                self._warn(error.message)

    def close(self) -> None:
        for device in self._devices:
            device.sink.close()

    # for sys/audit and sys/audit-hash

    @property
    def devices(self) -> list[Declared]:
        return [device.device for device in self._devices]

    def hash(self, path: str, text: str) -> str | None:
        """What `text` looks like in that device's entries; None: no such device."""
        for device in self._devices:
            if device.device.path == path:
                if device.hashed is None:
                    raise AuditFailed
                return device.hashed.text(text)
        return None

    # recording

    def request(
        self,
        request: Request,
        mount: Mount | None,
        token: "TokenEntry | None",
        now_ms: int,
        error: str = "",
    ) -> None:
        """Record what is about to be done. Raises AuditFailed."""
        if request.path in _SILENT:
            return
        time = self._time(now_ms)

        def lines(form: EntryFormat) -> bytes:
            parts = form.parts(request, mount, token, self._headers, error)
            return form.request_line(time, parts, error)

        self._record(lines, "vault.audit.log_request_failure")

    def response(
        self,
        request: Request,
        mount: Mount | None,
        token: "TokenEntry | None",
        response: Response | None,
        now_ms: int,
        error: str = "",
    ) -> None:
        """Record what came of it: `error` empty means that it was served. Raises AuditFailed."""
        if request.path in _SILENT:
            return
        time = self._time(now_ms)

        def lines(form: EntryFormat) -> bytes:
            parts = form.parts(request, mount, token, self._headers, error)
            answer = form.refusal(mount, error) if error else form.answer(request, mount, response)
            return form.response_line(time, parts, answer, error)

        self._record(lines, "vault.audit.log_response_failure")

    def exchange(
        self,
        request: Request,
        mount: Mount | None,
        token: "TokenEntry | None",
        response: Response | None,
        now_ms: int,
        error: str = "",
    ) -> None:
        """Both lines in one write, for a request that had no effect. Raises AuditFailed."""
        if request.path in _SILENT:
            return
        time = self._time(now_ms)

        def lines(form: EntryFormat) -> bytes:
            parts = form.parts(request, mount, token, self._headers, error)
            answer = form.refusal(mount, error) if error else form.answer(request, mount, response)
            first = form.request_line(time, parts, error)
            return first + form.response_line(time, parts, answer, error)

        self._record(lines, "vault.audit.log_response_failure")

    def _record(self, lines: Callable[[EntryFormat], bytes], failure: str) -> None:
        """Write to every device: one that works is enough, and all are tried."""
        recorded = False
        for device in self._devices:
            form = device.format
            if form is None:
                self._count_failure(device, "its salt is not there yet")
                continue
            try:
                device.sink.write(lines(form))
            except OSError as error:
                self._count_failure(device, error.strerror or "the write failed")
            else:
                recorded = True
                if device.failing:
                    device.failing = False
                    self._warn(f'audit device "{device.device.path}" works again')
        if not recorded:
            if self._metrics is not None:
                self._metrics.count(failure)
            raise AuditFailed

    def _count_failure(self, device: _Device, reason: str) -> None:
        """Counted every time, told once: a full disk must not fill another one with logs."""
        if self._metrics is not None:
            self._metrics.count("undercroft.audit.device_failures")
        if not device.failing:
            device.failing = True
            self._warn(f'audit device "{device.device.path}" fails: {reason}')

    def _time(self, now_ms: int) -> bytes:
        second, ms = divmod(now_ms, 1000)
        if second != self._second[0]:
            self._second = (second, rfc3339(second * 1000)[:-1])
        return f"{self._second[1]}.{ms:03d}Z".encode()
