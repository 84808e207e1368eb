"""What is fetched ahead, and what is kept."""

import hashlib
import threading
import time
from pathlib import Path

import fsspec
import pytest

from upcycle.data import fetching as module
from upcycle.data.fetching import Fetcher, Kept, fetching
from upcycle.remote import Address


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def photos(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe({f"/photos/{at}": f"photo {at}".encode() * 100 for at in range(50)})
    return [Address(f"memory://photos/{at}") for at in range(50)]


def test_a_local_file_is_given_as_it_is(tmp_path: Path) -> None:
    with fetching(lambda at: tmp_path / str(at), range(3)) as fetched:
        assert tmp_path / "1" == fetched(1)
        assert fetched._pool is None


def test_photos_come_in_any_order_each_fetched_once(photos: list[Address], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = module.read
    monkeypatch.setattr(module, "read", lambda address: (asked.append(address.name), plain(address))[1])
    order = [3, 1, 2, 3, *range(4, 50)]
    with fetching(photos.__getitem__, order) as fetched:
        assert [f"photo {at}".encode() * 100 for at in (1, 3, 2, 3)] == [fetched(at) for at in (1, 3, 2, 3)]
        assert all(fetched(at) for at in range(4, 50))
        assert len(order) == len(asked)
        assert b"photo 0" == fetched(0)[:7]  # type: ignore[index]  # not foreseen


def test_no_more_than_the_window_is_fetched_ahead(photos: list[Address], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = module.read
    monkeypatch.setattr(module, "WINDOW", 5)
    monkeypatch.setattr(module, "read", lambda address: (asked.append(address.name), plain(address))[1])
    fetcher = Fetcher(photos.__getitem__, range(50))
    fetcher(0)
    until = time.monotonic() + 10
    while len(asked) < 6 and time.monotonic() < until:
        time.sleep(0.01)
    assert 6 == len(asked)
    fetcher.close()


def test_requests_overlap(photos: list[Address], monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as wait for each other here: one by one they would wait for ever."""
    together = threading.Barrier(20, timeout=20)
    monkeypatch.setattr(module, "read", lambda address: (together.wait(), address.name.encode())[1])
    with fetching(photos.__getitem__, range(20)) as fetched:
        assert [str(at).encode() for at in range(20)] == [fetched(at) for at in range(20)]


def test_what_is_kept_is_not_fetched_and_damage_is(
    photos: list[Address], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "fetched", 10**6)
    with fetching(photos.__getitem__, range(3), kept=kept) as fetched:
        contents = [fetched(at) for at in range(3)]
    names = [digest(data) for data in contents]  # type: ignore[arg-type]
    damaged = tmp_path / "fetched" / names[1][:2] / names[1]
    damaged.write_bytes(b"other")
    asked: list[str] = []
    plain = module.read
    monkeypatch.setattr(module, "read", lambda address: (asked.append(address.name), plain(address))[1])
    with fetching(photos.__getitem__, range(3), kept=kept, sha256=names.__getitem__) as fetched:
        assert contents == [fetched(at) for at in range(3)]
    assert ["1"] == asked


def test_the_least_recently_used_go_first_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP", 1000)
    kept = Kept(tmp_path / "fetched", 5000)
    data = [bytes([at]) * 1000 for at in range(20)]
    for one in data:
        kept.put(digest(one), one)
        time.sleep(0.002)
        assert kept.get(digest(data[0])) == data[0]  # in use
    held = [one for one in data if kept.get(digest(one)) is not None]
    assert data[0] in held
    assert data[-1] in held
    assert 4 <= len(held) <= 6


def test_a_folder_that_cannot_be_written_costs_no_photo(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept = Kept(tmp_path / "file", 10**6)
    kept.put(digest(b"x"), b"x")
    assert kept.get(digest(b"x")) is None


def test_readers_ahead_of_the_window_are_waited_for_by_it(
    photos: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that make several batches at once ask beyond the window: each photo is still fetched once, ahead."""
    asked: list[str] = []
    plain = module.read
    monkeypatch.setattr(module, "WINDOW", 5)
    monkeypatch.setattr(module, "read", lambda address: (asked.append(address.name), plain(address))[1])
    asking = [position for pair in zip(range(25), range(25, 50), strict=True) for position in pair]
    with fetching(photos.__getitem__, range(50)) as fetched:
        assert [f"photo {at}".encode() * 100 for at in asking] == [fetched(at) for at in asking]
        assert not fetched._fetched
    assert 50 == len(asked)


def test_what_is_asked_for_unforeseen_does_not_fetch_all(
    photos: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 2)
    monkeypatch.setattr(module, "MOST", 10)
    fetcher = Fetcher(photos.__getitem__, range(40))
    for _ in range(3):
        assert b"photo 49" == fetcher(49)[:8]  # type: ignore[index]
    assert 10 == sum(map(len, fetcher._fetched.values()))
    assert [f"photo {at}".encode() * 100 for at in range(40)] == [fetcher(at) for at in range(40)]
    fetcher.close()


def test_keeping_a_photo_leaves_the_permissions_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They belong to all threads: who sets them for a moment sets them for whoever writes then."""

    def never(_: int) -> int:
        raise AssertionError

    monkeypatch.setattr("os.umask", never)
    kept = Kept(tmp_path / "fetched", 10**6)
    kept.put(digest(b"x"), b"x")
    assert b"x" == kept.get(digest(b"x"))


def test_a_photo_that_is_here_already_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    kept = Kept(tmp_path / "fetched", 10**6)
    with fetching(lambda at: Address(f"file://{tmp_path}/{at}.png"), [1], kept=kept) as fetched:
        assert b"one" == fetched(1)
    assert not (tmp_path / "fetched").exists()
