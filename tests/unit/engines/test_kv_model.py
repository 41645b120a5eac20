"""Any history of KV v2 calls equals a plain model of what Vault says versions are."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.calls import PATCH, READ, Calls, data_of
from tests.unit.engines.conftest import kv_mount
from undercroft.engines.kv import engine_for
from undercroft.engines.kv.secret import INLINE_BYTES_MAX
from undercroft.errors import InvalidRequest, NotFound

PATHS = st.sampled_from(["a", "a/1", "b"])
NUMBERS = st.lists(st.integers(-1, 8), min_size=1, max_size=3)
PAYLOADS = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9) | st.none(), max_size=3),
    st.just({"long": "x" * INLINE_BYTES_MAX}),
)


@dataclass
class Version:
    data: Any
    until: float = float("inf")
    destroyed: bool = False


@dataclass
class Secret:
    versions: dict[int, Version] = field(default_factory=dict)
    newest: int = 0
    max_versions: int = 0
    seconds: int = 0
    cas_required: bool = False


class History(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        mount = kv_mount("2")
        self.calls = Calls(Path(self.directory.name), engine_for(mount), mount)
        self.model: dict[str, Secret] = {}
        self.max_versions = self.seconds = 0

    def teardown(self) -> None:
        self.calls.close()
        self.directory.cleanup()

    def until(self, secret: Secret) -> float:
        times = [s for s in (secret.seconds, self.seconds) if s > 0]
        allowed = times and self.seconds >= 0
        return self.calls.now_ms + 1000 * min(times) if allowed else float("inf")

    def add(self, secret: Secret, data: Any) -> None:
        secret.newest += 1
        secret.versions[secret.newest] = Version(data, self.until(secret))
        kept = max(secret.max_versions, self.max_versions) or 10
        for number in sorted(secret.versions)[:-kept]:
            del secret.versions[number]

    @rule(seconds=st.integers(0, 20))
    def time_passes(self, seconds: int) -> None:
        self.calls.now_ms += seconds * 1000

    @rule(count=st.integers(0, 4), seconds=st.sampled_from([0, 0, 10, -1]))
    def configure(self, count: int, seconds: int) -> None:
        self.calls.write("config", {"max_versions": count, "delete_version_after": seconds})
        self.max_versions, self.seconds = count, seconds

    @rule(path=PATHS, count=st.integers(0, 4), seconds=st.sampled_from([0, 15]), cas=st.booleans())
    def set_metadata(self, path: str, count: int, seconds: int, cas: bool) -> None:
        body = {"max_versions": count, "delete_version_after": seconds, "cas_required": cas}
        self.calls.write(f"metadata/{path}", body)
        secret = self.model.setdefault(path, Secret())
        secret.max_versions, secret.seconds, secret.cas_required = count, seconds, cas

    @rule(path=PATHS, data=PAYLOADS, cas=st.none() | st.integers(0, 6))
    def write(self, path: str, data: Any, cas: int | None) -> None:
        secret = self.model.get(path, Secret())
        options = {} if cas is None else {"cas": cas}
        refused = cas != secret.newest if cas is not None else secret.cas_required
        try:
            answer = self.calls.write(f"data/{path}", {"data": data, "options": options})
        except InvalidRequest:
            assert refused
        else:
            assert not refused
            self.model[path] = secret
            self.add(secret, data)
            assert answer["version"] == secret.newest

    @rule(path=PATHS, data=PAYLOADS)
    def patch(self, path: str, data: Any) -> None:
        secret = self.model.get(path, Secret())
        newest = secret.versions.get(secret.newest)
        body = {"data": data, "options": {"cas": secret.newest}}
        try:
            response = self.calls.send(PATCH, f"data/{path}", body)
        except NotFound:
            assert newest is None
            return
        assert newest is not None
        assert response is not None
        live = not newest.destroyed and self.calls.now_ms < newest.until
        assert (response.status == 404) is not live
        if live:
            changed = None if data is None else {**(newest.data or {}), **data}
            if changed is not None:
                for name, value in (data or {}).items():
                    if value is None:
                        del changed[name]
            self.add(secret, changed)

    @rule(path=PATHS, numbers=st.none() | NUMBERS)
    def delete(self, path: str, numbers: list[int] | None) -> None:
        if numbers is None:
            self.calls.delete(f"data/{path}")
        else:
            self.calls.write(f"delete/{path}", {"versions": numbers})
        secret = self.model.get(path, Secret())
        for number in [secret.newest] if numbers is None else numbers:
            version = secret.versions.get(number)
            if version is not None and not version.destroyed:
                version.until = min(version.until, self.calls.now_ms)

    @rule(path=PATHS, numbers=NUMBERS)
    def undelete(self, path: str, numbers: list[int]) -> None:
        self.calls.write(f"undelete/{path}", {"versions": numbers})
        secret = self.model.get(path, Secret())
        for number in numbers:
            version = secret.versions.get(number)
            if version is not None and not version.destroyed:
                version.until = self.until(secret)

    @rule(path=PATHS, numbers=NUMBERS)
    def destroy(self, path: str, numbers: list[int]) -> None:
        self.calls.write(f"destroy/{path}", {"versions": numbers})
        for number in numbers:
            version = self.model.get(path, Secret()).versions.get(number)
            if version is not None:
                version.destroyed = True

    @rule(path=PATHS)
    def remove(self, path: str) -> None:
        self.calls.delete(f"metadata/{path}")
        self.model.pop(path, None)

    @invariant()
    def reads_as_the_model_says(self) -> None:
        if not hasattr(self, "calls"):
            return
        for path, secret in self.model.items():
            described = self.calls.read(f"metadata/{path}")
            assert described["current_version"] == secret.newest
            assert list(map(int, described["versions"])) == sorted(secret.versions)
            for number, version in secret.versions.items():
                response = self.calls.send(READ, f"data/{path}", None, {"version": number})
                assert response is not None
                live = not version.destroyed and self.calls.now_ms < version.until
                assert (response.status or 200) == (200 if live else 404)
                found = data_of(response)
                assert found["data"] == (version.data if live else None)
                assert found["metadata"]["version"] == number
                assert found["metadata"]["destroyed"] is version.destroyed

    @invariant()
    def the_store_holds_nothing_that_the_model_has_not(self) -> None:
        if not hasattr(self, "calls"):
            return
        kept = {
            f"v/{path}/{number}"
            for path, secret in self.model.items()
            for number, version in secret.versions.items()
            if not version.destroyed
        }
        metadata = {f"m/{path}" for path in self.model}
        names = set(self.calls.names()) - {"config"}
        assert metadata <= names <= metadata | kept


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
