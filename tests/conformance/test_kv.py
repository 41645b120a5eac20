"""KV v1, KV v2 and cubbyhole beside OpenBao."""

from collections.abc import Iterator

import pytest

from tests.conformance.pair import Pair

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(scope="module")
def kv1(pair: Pair) -> Iterator[str]:
    pair.same("POST", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}}, status=204)
    yield "kv1"
    pair.both("DELETE", "sys/mounts/kv1")


@pytest.fixture(scope="module")
def kv2(pair: Pair) -> Iterator[str]:
    pair.same("POST", "sys/mounts/kv2", {"type": "kv", "options": {"version": "2"}}, status=204)
    yield "kv2"
    pair.both("DELETE", "sys/mounts/kv2")


def test_v1_keeps_an_object_and_gives_it_back(pair: Pair, kv1: str) -> None:
    pair.same("POST", f"{kv1}/a", {"x": "1", "n": 5, "deep": {"l": [1, None, True]}}, status=204)
    pair.same("GET", f"{kv1}/a", status=200)
    pair.same("PUT", f"{kv1}/a", {"x": "2"}, status=204)
    pair.same("GET", f"{kv1}/a", status=200)
    pair.same("DELETE", f"{kv1}/a", status=204)
    pair.same("DELETE", f"{kv1}/a", status=204)
    pair.same("GET", f"{kv1}/a", status=404)


def test_v1_a_ttl_field_becomes_the_lease_duration(pair: Pair, kv1: str) -> None:
    for ttl in ("1h", 90, "90", "garbage", "-5s", 1.5):
        pair.same("POST", f"{kv1}/ttl", {"ttl": ttl}, status=204)
        pair.same("GET", f"{kv1}/ttl", status=200)
    pair.same("POST", f"{kv1}/ttl", {"lease": "30m"}, status=204)
    pair.same("GET", f"{kv1}/ttl", status=200)


def test_v1_refuses_nothing_to_store(pair: Pair, kv1: str) -> None:
    pair.same("POST", f"{kv1}/empty", {}, status=400)
    pair.same("POST", f"{kv1}/empty", None, status=400)


def test_v1_lists_folders_and_leaves(pair: Pair, kv1: str) -> None:
    for name in ("l/b", "l/a", "l/c/d", "l/c", "l/ä", "l/a-b", "l/a/z"):
        pair.same("POST", f"{kv1}/{name.replace('ä', '%C3%A4')}", {"x": 1}, status=204)
    pair.same("LIST", f"{kv1}/l", status=200)
    pair.same("LIST", f"{kv1}/l/", status=200)
    pair.same("GET", f"{kv1}/l?list=true", status=200)
    pair.same("LIST", f"{kv1}/l/c", status=200)
    pair.same("LIST", f"{kv1}/nothing", status=404)
    # OpenBao has no paging here and says so; ours has.
    page = pair.ours.request("GET", f"{kv1}/l?list=true&after=a&limit=2")
    assert page.body["data"]["keys"] == ["a-b", "a/"]
    theirs, ours = pair.both("SCAN", f"{kv1}/l")  # in another order there
    assert sorted(theirs.body["data"]["keys"]) == sorted(ours.body["data"]["keys"])
    pair.same("PATCH", f"{kv1}/l/a", {"x": 1}, headers=MERGE, status=405)


def test_v1_slashes_at_the_end(pair: Pair, kv1: str) -> None:
    pair.same("POST", f"{kv1}/slash/", {"x": 1}, status=400)
    pair.same("GET", f"{kv1}/slash/", status=404)


@pytest.mark.parametrize("number", ["1.0", "1e3", "12345678901234567890123", "-0.0", "1E-7"])
def test_numbers_come_back_as_they_were_written(
    pair: Pair, kv1: str, kv2: str, number: str
) -> None:
    body = f'{{"n":{number}}}'.encode()
    assert pair.ours.request("POST", f"{kv1}/num", body).status == 204
    assert pair.ours.request("POST", f"{kv2}/data/num", b'{"data":' + body + b"}").status == 200
    for path in (f"{kv1}/num", f"{kv2}/data/num"):
        assert f'"n":{number}' in raw_text(pair, path)


def raw_text(pair: Pair, path: str) -> str:
    import http.client

    connection = http.client.HTTPConnection(pair.ours.host, pair.ours.port)
    connection.request("GET", f"/v1/{path}", headers={"X-Vault-Token": pair.ours.token})
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_v2_writes_make_versions(pair: Pair, kv2: str) -> None:
    pair.same("GET", f"{kv2}/data/v", status=404)
    for n in range(3):
        pair.same("POST", f"{kv2}/data/v", {"data": {"n": n}}, status=200)
    pair.same("GET", f"{kv2}/data/v", status=200)
    pair.same("GET", f"{kv2}/data/v?version=1", status=200)
    pair.same("GET", f"{kv2}/data/v?version=0", status=200)
    pair.same("GET", f"{kv2}/data/v?version=9", status=404)
    pair.same("GET", f"{kv2}/data/v?version=x", status=400, errors=False)
    pair.same("GET", f"{kv2}/metadata/v", status=200)


def test_v2_a_write_needs_data(pair: Pair, kv2: str) -> None:
    pair.same("POST", f"{kv2}/data/nodata", {}, status=400)
    pair.same("POST", f"{kv2}/data/nodata", {"data": "text"}, status=400, errors=False)
    pair.same("POST", f"{kv2}/data/nodata", {"data": {}}, status=200)
    pair.same("POST", f"{kv2}/data/nodata", {"data": None}, status=200)
    pair.same("GET", f"{kv2}/data/nodata", status=200)


def test_v2_check_and_set(pair: Pair, kv2: str) -> None:
    def write(cas: object, status: int) -> None:
        body = {"data": {"a": 1}, "options": {"cas": cas}}
        pair.same("POST", f"{kv2}/data/cas", body, status=status)

    write(1, 400)
    write(0, 200)
    write(0, 400)
    write(1, 200)
    pair.same("POST", f"{kv2}/metadata/cas", {"cas_required": True}, status=204)
    pair.same("POST", f"{kv2}/data/cas", {"data": {"a": 1}}, status=400)
    write(2, 200)


def test_v2_deletes_undeletes_and_destroys(pair: Pair, kv2: str) -> None:
    for n in range(4):
        pair.same("POST", f"{kv2}/data/d", {"data": {"n": n}}, status=200)
    pair.same("DELETE", f"{kv2}/data/d", status=204)
    pair.same("GET", f"{kv2}/data/d", status=404)
    pair.same("GET", f"{kv2}/data/d?version=3", status=200)
    pair.same("POST", f"{kv2}/undelete/d", {"versions": [4]}, status=204)
    pair.same("GET", f"{kv2}/data/d", status=200)
    pair.same("POST", f"{kv2}/delete/d", {"versions": "1,2"}, status=204)
    pair.same("GET", f"{kv2}/data/d?version=1", status=404)
    pair.same("POST", f"{kv2}/destroy/d", {"versions": [2, 3]}, status=204)
    pair.same("POST", f"{kv2}/undelete/d", {"versions": [1, 2]}, status=204)
    pair.same("GET", f"{kv2}/data/d?version=1", status=200)
    pair.same("GET", f"{kv2}/data/d?version=2", status=404)
    pair.same("GET", f"{kv2}/metadata/d", status=200)
    for verb in ("delete", "undelete", "destroy"):
        pair.same("POST", f"{kv2}/{verb}/d", {}, status=400)
        pair.same("POST", f"{kv2}/{verb}/unknown", {"versions": [1]}, status=204)


def test_v2_metadata_is_written_patched_and_deleted(pair: Pair, kv2: str) -> None:
    body = {"max_versions": 2, "delete_version_after": "3h", "custom_metadata": {"owner": "a"}}
    pair.same("POST", f"{kv2}/metadata/m", body, status=204)
    pair.same("GET", f"{kv2}/metadata/m", status=200)
    for n in range(4):
        pair.same("POST", f"{kv2}/data/m", {"data": {"n": n}}, status=200)
    pair.same("GET", f"{kv2}/metadata/m", status=200)
    pair.same("GET", f"{kv2}/data/m?version=1", status=404)
    patch = {"custom_metadata": {"owner": None, "team": "x"}, "max_versions": 5}
    pair.same("PATCH", f"{kv2}/metadata/m", patch, headers=MERGE, status=204)
    pair.same("GET", f"{kv2}/metadata/m", status=200)
    pair.same("PATCH", f"{kv2}/metadata/none", patch, headers=MERGE, status=404, errors=False)
    pair.same("DELETE", f"{kv2}/metadata/m", status=204)
    pair.same("GET", f"{kv2}/metadata/m", status=404)
    pair.same("GET", f"{kv2}/data/m", status=404)


def test_v2_custom_metadata_has_limits(pair: Pair, kv2: str) -> None:
    many = {f"k{i}": "v" for i in range(65)}
    for bad in (many, {"k" * 129: "v"}, {"k": "v" * 513}, {"": "v"}, {"k": ""}, "text"):
        pair.same(
            "POST", f"{kv2}/metadata/limits", {"custom_metadata": bad}, status=400, errors=False
        )


def test_v2_patch_merges(pair: Pair, kv2: str) -> None:
    pair.same("PATCH", f"{kv2}/data/p", {"data": {"a": 1}}, headers=MERGE, status=404, errors=False)
    pair.same("POST", f"{kv2}/data/p", {"data": {"a": 1, "b": {"c": 1, "d": 2}}}, status=200)
    body = {"data": {"a": None, "b": {"c": 5}, "e": [1]}}
    pair.same("PATCH", f"{kv2}/data/p", body, headers=MERGE, status=200)
    pair.same("GET", f"{kv2}/data/p", status=200)
    # OpenBao answers 400 when there is no content type at all.
    assert pair.ours.request("PATCH", f"{kv2}/data/p", body).status == 415
    cas = {"data": {"x": 1}, "options": {"cas": 1}}
    pair.same("PATCH", f"{kv2}/data/p", cas, headers=MERGE, status=400)


def test_v2_subkeys_hide_values(pair: Pair, kv2: str) -> None:
    data = {"a": 1, "b": {"c": {"d": "x"}, "e": []}, "f": {}}
    pair.same("POST", f"{kv2}/data/s", {"data": data}, status=200)
    pair.same("GET", f"{kv2}/subkeys/s", status=200)
    pair.same("GET", f"{kv2}/subkeys/s?depth=1", status=200)
    pair.same("GET", f"{kv2}/subkeys/s?version=1", status=200)
    pair.same("GET", f"{kv2}/subkeys/none", status=404)


def test_v2_config_of_the_mount(pair: Pair, kv2: str) -> None:
    pair.same("POST", "sys/mounts/kv2c", {"type": "kv-v2"}, status=204)
    pair.same("GET", "kv2c/config", status=200)
    body = {"max_versions": 3, "cas_required": True, "delete_version_after": "1h"}
    pair.same("POST", "kv2c/config", body, status=204)
    pair.same("GET", "kv2c/config", status=200)
    pair.same("POST", "kv2c/data/a", {"data": {}}, status=400)
    pair.same("POST", "kv2c/data/a", {"data": {}, "options": {"cas": 0}}, status=200)
    pair.same("DELETE", "sys/mounts/kv2c", status=204)


def test_v2_lists_metadata(pair: Pair, kv2: str) -> None:
    for name in ("ls/a", "ls/b/c", "ls/b"):
        pair.same("POST", f"{kv2}/data/{name}", {"data": {}}, status=200)
    pair.same("LIST", f"{kv2}/metadata/ls", status=200)
    pair.same("LIST", f"{kv2}/metadata/ls/", status=200)
    pair.same("LIST", f"{kv2}/metadata/none", status=404)
    pair.same("SCAN", f"{kv2}/metadata/ls", status=200)


def test_v2_paths_without_data_are_explained(pair: Pair, kv2: str) -> None:
    pair.same("GET", f"{kv2}/plain", status=404)
    pair.same("POST", f"{kv2}/plain", {"a": "b"}, status=404)
    pair.same("GET", f"{kv2}/", status=404, errors=False)


def test_a_cubbyhole_is_a_tokens_own(pair: Pair) -> None:
    pair.same("GET", "cubbyhole/a", status=404)
    pair.same("POST", "cubbyhole/a", {"x": "1"}, status=204)
    pair.same("GET", "cubbyhole/a", status=200)
    pair.same("LIST", "cubbyhole", status=200)
    # OpenBao answers 500 to what is the caller's fault.
    assert pair.ours.request("POST", "cubbyhole/b", {}).status == 400
    pair.same("DELETE", "cubbyhole/a", status=204)
    pair.same("LIST", "cubbyhole", status=404)
