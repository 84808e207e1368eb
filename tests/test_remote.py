"""Addresses as paths, and reading them: stores in memory, files, and a web server that fails."""

from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.stores import serving
from upcycle import remote
from upcycle.errors import DataError, shown
from upcycle.remote import Address, below, inside, is_address, place, read


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))


@pytest.fixture
def store() -> fsspec.AbstractFileSystem:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe({"/photos/a/1.png": b"one", "/photos/b/2.png": b"two", "/photos/notes.txt": b"text"})
    return memory


def test_an_address_is_a_path_with_its_scheme() -> None:
    address = place("s3://bucket/photos")
    assert isinstance(address, Address)
    assert "s3://bucket/photos" == str(address) == str(address.resolve()) == str(place(Path("s3://bucket/photos")))
    assert "s3://bucket/photos/a/1.png" == str(address / "a/1.png")
    assert ("photos", "s3://bucket") == (address.name, str(address.parent))
    assert Path("a/1.png") == (address / "a/1.png").relative_to(address)
    assert type(Path()) is type((address / "a").relative_to(address))
    assert "file:///tmp/photos" == str(place("file:///tmp/photos"))
    assert not Path("/tmp").is_relative_to(address)


@pytest.mark.parametrize("text", ["photos", "/photos", "C:/photos", "a:b", "./s3:/x", "~/photos"])
def test_a_path_is_none(text: str) -> None:
    assert not is_address(text)
    assert not isinstance(place(text), Address)


def test_a_folder_of_that_very_name_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data:").mkdir()
    assert not is_address("data:/photos")


def test_a_store_says_what_it_has(store: fsspec.AbstractFileSystem) -> None:
    photos = place("memory://photos")
    assert photos.exists()
    assert photos.is_dir()
    assert not (photos / "nothing").exists()
    assert (photos / "a/1.png").is_file()
    assert [("a/1.png", 3), ("b/2.png", 3), ("notes.txt", 4)] == list(below(photos))
    assert b"one" == (photos / "a/1.png").read_bytes() == read(inside(photos, "a/1.png"))
    assert b"two" == read(inside(photos, "memory://photos/b/2.png"))
    with pytest.raises(FileNotFoundError):
        read(photos / "nothing.png")


def test_secrets_are_not_shown() -> None:
    text = "https://user:pass@host/photos.csv?X-Amz-Signature=abc and more"
    assert "https://host/photos.csv and more" == shown(text)
    assert "what?" == shown("what?")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("gopher://host/photos", "gopher://host/photos: gopher:// is no protocol that fsspec knows"),
        ("gs://bucket/photos", "gs://bucket/photos: reading gs:// needs gcsfs: pip install gcsfs"),
    ],
)
def test_a_store_without_its_package_is_one_line(address: str, expected: str) -> None:
    if "gs:" in address:
        try:
            import gcsfs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed")
    with pytest.raises(DataError) as error:
        place(address).exists()
    assert expected == str(error.value)


def test_a_store_that_is_gone_for_a_while_is_asked_again(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "1.png").write_bytes(b"one")
    with serving(tmp_path, refused=2) as web:
        assert b"one" == read(place(f"{web.address}/1.png"))
        assert 3 == len(web.asked)
        web.refused = 99
        with pytest.raises(
            DataError, match=r"^http://127\.0\.0\.1:\d+/1\.png does not answer \(503.*resume with --resume$"
        ):
            read(place(f"{web.address}/1.png"))
    with pytest.raises(DataError, match=r"does not answer \("):
        read(place(f"{web.address}/1.png"))


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_not_tried_again(status: int, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with serving(tmp_path, refused=99, status=status) as web:
        with pytest.raises(DataError, match=r"refuses to be read \(.*\): give an address that needs none"):
            read(place(f"{web.address}/1.png"))
        assert 1 == len(web.asked)


def test_https_has_no_folders(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with serving(tmp_path) as web, pytest.raises(DataError, match="https lists no folder: give a manifest, a Parquet"):
        list(below(place(web.address)))


def test_a_status_is_not_looked_for_in_names(tmp_path: Path) -> None:
    """A server that is busy for a moment has neither lost nor refused a photo that is called so."""
    pytest.importorskip("aiohttp")
    for name in ("img_404.jpg", "img_4031.jpg", "NoSuchKey.jpg"):
        (tmp_path / name).write_bytes(b"one")
        with serving(tmp_path, refused=1) as web:
            assert b"one" == read(place(f"{web.address}/{name}"))
            assert 2 == len(web.asked)


@pytest.mark.parametrize("ask", [Address.exists, Address.is_file])
def test_a_store_that_does_not_answer_has_not_lost_its_files(ask: Any, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "list.csv").write_bytes(b"one")
    with serving(tmp_path) as web:
        assert ask(place(f"{web.address}/list.csv"))
        assert not ask(place(f"{web.address}/other.csv"))
        web.refused = 99
        with pytest.raises(DataError, match="does not answer"):
            ask(place(f"{web.address}/list.csv"))
        web.refused, web.status = 99, 403
        with pytest.raises(DataError, match="refuses to be read"):
            ask(place(f"{web.address}/list.csv"))


def test_an_answer_that_never_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    import aiohttp

    waits = remote._patience("https")["client_kwargs"]["timeout"]
    assert (30.0, 30.0, None) == (waits.sock_connect, waits.sock_read, waits.total)
    (tmp_path / "1.png").write_bytes(b"one")
    store = fsspec.filesystem(
        "http", client_kwargs={"timeout": aiohttp.ClientTimeout(sock_read=0.05)}, skip_instance_cache=True
    )
    monkeypatch.setattr(remote, "_store", lambda *_: store)
    with serving(tmp_path, delay=1.0) as web, pytest.raises(DataError, match="does not answer"):
        read(place(f"{web.address}/1.png"))


def test_a_part_that_is_cut_short_is_one_line(store: fsspec.AbstractFileSystem) -> None:
    store.pipe("/photos/a.tar", b"x" * 100)
    with pytest.raises(DataError, match=r"does not answer \(50 of 60 bytes\)"):
        read(place("memory://photos/a.tar#50+60/1.png"))


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("https://user:pass@host/1.png", True),
        ("https://host/1.png?X-Amz-Signature=abc&x=1", True),
        ("https://host/1.png?a=1&token=abc", True),
        ("https://host/1.png?size=64", False),
        ("s3://bucket/mail@home.png", False),
        ("photos/1.png", False),
    ],
)
def test_what_no_record_may_hold_is_known(address: str, secret: bool) -> None:
    assert secret == remote.has_secret(address)
