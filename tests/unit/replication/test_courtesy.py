"""A first copy rests when somebody waits for a processor, and only then."""

from pathlib import Path

import pytest

from undercroft.replication import courtesy


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(courtesy.time, "sleep", made.append)
    seconds = iter((10.0, 10.5))
    monkeypatch.setattr(courtesy.time, "perf_counter", lambda: next(seconds))
    return made


def piece(monkeypatch: pytest.MonkeyPatch, waited_us: int) -> None:
    """Half a second of work, while others wait so long."""
    told = iter((1_000, 1_000 + waited_us))
    monkeypatch.setattr(courtesy, "waited_us", lambda: next(told))
    with courtesy.half_of_the_time():
        pass


def test_it_rests_as_long_as_it_worked_when_somebody_waited(
    rests: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    piece(monkeypatch, 20_000)
    assert rests == [0.5]


def test_it_goes_on_at_once_when_nobody_waited(
    rests: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    piece(monkeypatch, 9_000)
    assert rests == []


def test_the_kernels_count_is_read_and_its_absence_means_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu"
    monkeypatch.setattr(courtesy, "_PRESSURE", file)
    assert courtesy.waited_us() == 0
    file.write_text(
        "some avg10=0.47 avg60=3.13 avg300=3.75 total=5726175924\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )
    assert courtesy.waited_us() == 5_726_175_924
    file.write_text("what no kernel writes")
    assert courtesy.waited_us() == 0
