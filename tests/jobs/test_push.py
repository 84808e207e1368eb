"""An export on its way to the Hub: a server on this machine that answers as the Hub does and keeps what arrives."""

import base64
import hashlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from upcycle.bundle.description import FILE, Description, Origin, sha256_of
from upcycle.cli import main
from upcycle.data.preprocessing import Preprocessing
from upcycle.rundir import write_json
from upcycle.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own
TOKEN = "hf_secret"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The files of an export, and some of the user's own."""
    folder = tmp_path / "exported"
    folder.mkdir()
    contents = {
        "model.onnx": np.random.default_rng(0).bytes(300_000),
        "README.md": b"---\nlibrary_name: onnx\n---\n\n# A model\n",
        "evaluation.json": b"{}\n",
        "predictions.csv": "path,label\n1,d'été\n".encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    task = Task.of(["cats", "dogs"])
    weights = {"source": "none: random", "sha256": ""}
    model = {**task.to_dict(), "arch": "resnet18", "preprocessing": Preprocessing().to_dict(), "weights": weights}
    origin = Origin("probe", 0, "1" * 64, "2" * 64, "3" * 64, {"cats": {"test": 2}, "dogs": {"test": 3}}, "", {})
    files = {name: sha256_of(folder / name) for name in contents}
    write_json(folder / FILE, Description("onnx", model, origin, "test", files=files).to_dict())
    (folder / "notes.txt").write_text("mine")
    (folder / "more").mkdir()
    (folder / "more" / "README.md").write_text("mine too")
    return folder


class Hub(ThreadingHTTPServer):
    """What huggingface_hub asks of the Hub to make a repository and to fill it in one commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.large: tuple[str, ...] = (".onnx",)
        """Endings of files that are not sent within the commit."""
        self.visibility: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.by_oid: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer(404 if self._allowed() else 401, {"error": "Repository not found"})

    def do_PUT(self) -> None:
        content = self._content()
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        self._answer(200, {})

    def do_POST(self) -> None:
        content = self._content()
        if not self._allowed():
            return self._answer(401, {"error": "Invalid credentials"})
        for pattern, method in self._routes.items():
            if found := re.fullmatch(pattern, self.path):
                return self._answer(*method(self, content, *found.groups()))
        return self._answer(404, {"error": self.path})

    def _create(self, content: bytes) -> tuple[int, object]:
        asked = json.loads(content)
        name = f"{asked['organization']}/{asked['name']}"
        address = {"url": f"{self.server.address}/{name}"}
        if name in self.server.visibility:
            return 409, {"error": "You already created this model repo", **address}
        self.server.visibility[name] = asked["visibility"]
        self.server.files[name] = {}
        return 200, address

    def _check_card(self, _: bytes) -> tuple[int, object]:
        return 200, {"errors": [], "warnings": []}

    def _modes(self, content: bytes, name: str) -> tuple[int, object]:
        paths = [file["path"] for file in json.loads(content)["files"]]
        modes = ["lfs" if path.endswith(self.server.large) else "regular" for path in paths]
        return 200, {
            "files": [
                {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for path, mode in zip(paths, modes, strict=True)
            ]
        }

    def _batch(self, content: bytes, name: str) -> tuple[int, object]:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.address}/objects/{one['oid']}"}}}
            for one in json.loads(content)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def _commit(self, content: bytes, name: str) -> tuple[int, object]:
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.server.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.by_oid.append(value["path"])
                self.server.files[name][value["path"]] = self.server.objects[value["oid"]]
        address = f"{self.server.address}/{name}/commit/{'a' * 40}"
        return 200, {"success": True, "commitUrl": address, "commitOid": "a" * 40}

    _routes: ClassVar[dict[str, Callable[..., tuple[int, object]]]] = {
        r"/api/repos/create": _create,
        r"/api/validate-yaml": _check_card,
        r"/api/models/([^/]+/[^/]+)/preupload/main": _modes,
        r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": _batch,
        r"/api/models/([^/]+/[^/]+)/commit/main": _commit,
    }

    def _allowed(self) -> bool:
        return self.headers["authorization"] == f"Bearer {TOKEN}"

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers["content-length"] or 0))

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage is no part of the stand-in
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    close_session()
    server.shutdown()
    server.server_close()


def files_of(bundle: Path) -> dict[str, bytes]:
    names = ("README.md", "bundle.json", "evaluation.json", "model.onnx", "predictions.csv")
    return {name: (bundle / name).read_bytes() for name in names}


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_exactly_the_files_of_an_export_arrive(hub: Hub, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["push", str(bundle), "ann/cats"])
    assert files_of(bundle) == hub.files["ann/cats"]
    assert ["model.onnx"] == hub.by_oid
    assert {"ann/cats": "private"} == hub.visibility
    assert capsys.readouterr().out.endswith(f"are at {hub.address}/ann/cats\n")


def test_they_arrive_by_the_uploader_of_newer_servers_too(
    hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    hub.large = ("nothing",)
    assert 0 == main(["push", str(bundle), "ann/cats"])
    assert files_of(bundle) == hub.files["ann/cats"]


def test_a_repository_that_exists_is_filled_again_and_stays_as_visible(hub: Hub, bundle: Path) -> None:
    assert 0 == main(["push", str(bundle), "ann/cats", "--public"])
    hub.files["ann/cats"]["README.md"] = b"old"
    assert 0 == main(["push", str(bundle), "ann/cats"])
    assert files_of(bundle) == hub.files["ann/cats"]
    assert {"ann/cats": "public"} == hub.visibility


def test_json_has_the_address(hub: Hub, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["push", str(bundle), "ann/cats", "--json"])
    assert {"folder": str(bundle), "address": f"{hub.address}/ann/cats"} == json.loads(capsys.readouterr().out)


def test_a_token_that_the_hub_does_not_know_ends_with_one_line(
    hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert 7 == main(["push", str(bundle), "ann/cats"])
    line = refused(capsys)
    assert line.startswith("upcycle: the Hub did not take ann/cats: ")
    assert "401" in line
    assert line.endswith("; set HF_TOKEN to a token that may write there, or run hf auth login")
    assert "hf_other" not in line
    assert {} == hub.files


def test_a_server_that_is_not_there_ends_with_one_line(
    hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert 7 == main(["push", str(bundle), "ann/cats"])
    assert refused(capsys).startswith("upcycle: the Hub did not take ann/cats: [Errno 111]")


@pytest.mark.parametrize("name", ["cats", "ann/cats/more", "ann/", "/cats", "ann/my cats", "ann/cats--", "ann\n/cats"])
def test_a_name_that_is_no_repositorys_is_refused(
    hub: Hub, bundle: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert 2 == main(["push", str(bundle), name])
    assert "names no repository" in refused(capsys)
    assert {} == hub.visibility


def test_a_damaged_export_is_not_pushed(hub: Hub, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "predictions.csv").write_text("path,label\n")
    assert 8 == main(["push", str(bundle), "ann/cats"])
    assert "predictions.csv is not the file that was exported" in refused(capsys)
    assert {} == hub.visibility


def test_a_folder_that_is_no_export_is_not_pushed(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 8 == main(["push", str(tmp_path), "ann/cats"])
    assert refused(capsys) == f"upcycle: {tmp_path} is no bundle: give the folder that upcycle export wrote"
    assert {} == hub.visibility


def test_a_run_gives_the_export_that_it_holds(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    write_json(run / "status.json", {"state": "finished"})
    assert 8 == main(["push", str(run), "ann/cats"])
    assert {} == hub.files
    shutil.copytree(bundle, run / "export" / "onnx")
    assert 0 == main(["push", str(run), "ann/cats"])
    assert files_of(bundle) == hub.files["ann/cats"]


def test_a_run_without_an_export_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "status.json", {"state": "finished"})
    assert 8 == main(["push", str(tmp_path), "ann/cats"])
    assert f"has no export yet: upcycle export {tmp_path} --format timm, or onnx" in capsys.readouterr().err
