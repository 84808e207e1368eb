import csv
import io
import json
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

import upcycle
from tests.conftest import TINY, draw, write_classes
from tests.reporting.pages import Page
from upcycle.cli import main
from upcycle.data import isolation
from upcycle.errors import ConfigError, DataError, RunError
from upcycle.reporting.progress import Silent


def claiming(png: bytes, side: int) -> bytes:
    """A PNG whose header says that it is `side` pixels wide and high."""
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.fixture
def trouble(tmp_path: Path) -> Path:
    """DATA/CLASS/* with one of nearly everything that can be wrong."""
    data = write_classes(tmp_path / "data", {"across": 20, "down": 20})
    across, down = data / "across", data / "down"
    whole = (across / "000.png").read_bytes()
    (across / "cut.png").write_bytes(whole[: len(whole) // 2])
    (across / "empty.png").write_bytes(b"")
    (across / "text.jpg").write_bytes(b"no picture")
    Image.new("RGB", (48, 48), "white").save(down / "white.png")
    (down / "bomb.png").write_bytes(claiming(whole, 20_000))
    draw(1, 50).resize((10, 10)).save(down / "icon.png")
    draw(1, 51).resize((300, 40)).save(down / "banner.png")
    draw(1, 52).save(down / "named.png", "JPEG")
    draw(1, 53).convert("L").save(down / "gray.png")
    shutil.copy(across / "001.png", down / "twin.png")  # the same bytes, another label
    Image.open(across / "002.png").save(across / "recoded.bmp")  # the same pixels, other bytes
    return data


def kinds(scan: upcycle.Scan) -> dict[str, list[str]]:
    """The first path of each group of every finding."""
    return {finding.kind: [group[0].path for group in finding.groups] for finding in scan.audit.findings}


def listed(scan: upcycle.Scan) -> dict[str, str]:
    rows = csv.DictReader(io.StringIO(scan.quarantine.read_text(encoding="utf-8")))
    return {row["path"]: row["excluded"] for row in rows}


def test_everything_that_is_wrong_is_found_and_what_is_unusable_proposed(trouble: Path, tmp_path: Path) -> None:
    scan = upcycle.scan(trouble, out=tmp_path / "scan", show=Silent())
    found = kinds(scan)
    expected = {
        "conflicts": ["across/001.png"],
        "blank": ["down/white.png"],
        "gray": ["down/gray.png"],
        "tiny": ["down/icon.png"],
        "odd-aspect": ["down/banner.png"],
        "copies": ["across/001.png", "across/002.png"],
        "wrong-ending": ["down/named.png"],
        "empty": ["across/empty.png"],
        "truncated": ["across/cut.png"],
        "unreadable": ["across/text.jpg"],
        "too-large": ["down/bomb.png"],
    }
    assert expected == {kind: found.get(kind) for kind in expected}
    rows = listed(scan)
    assert [
        "across/001.png",
        "across/cut.png",
        "across/empty.png",
        "across/text.jpg",
        "down/bomb.png",
        "down/twin.png",
        "down/white.png",
    ] == [path for path, answer in rows.items() if answer == "yes"]
    assert "no" == rows["down/icon.png"]
    assert {"train", "val", "test"} == scan.audit.splits.keys()
    assert "upcycle scan" in scan.audit.command
    assert "<li><b>" in scan._repr_html_()
    assert ["audit.json", "grouped.csv", "quarantine.csv", "scan.html"] == sorted(
        file.name for file in (tmp_path / "scan").iterdir()
    )


@pytest.mark.usefixtures("no_page")
def test_training_leaves_out_what_the_edited_list_says(trouble: Path, tmp_path: Path, tiny_weights: Path) -> None:
    scan = upcycle.scan(trouble, out=tmp_path / "scan", show=Silent())
    text = scan.quarantine.read_text(encoding="utf-8")
    edited = text.replace('"no","down/icon.png"', '"yes","down/icon.png"').replace(
        '"yes","down/white.png"', '"no","down/white.png"'
    )
    assert edited != text
    scan.quarantine.write_text(edited + '"yes","down/gone.png","it was there"\n', encoding="utf-8")
    told: list[str] = []

    class Heard(Silent):
        def warn(self, text: str) -> None:
            told.append(text)

    run = upcycle.train(
        trouble,
        out=tmp_path / "run",
        quarantine=scan.quarantine,
        arch=TINY,
        weights=str(tiny_weights),
        epochs=0,
        show=Heard(),
    )
    audit = json.loads(run.directory.audit.read_text(encoding="utf-8"))
    reasons = {file["path"]: file["reason"] for file in audit["quarantined"]}
    assert "excluded by quarantine.csv: tiny: 10 x 10" == reasons["down/icon.png"]
    assert "down/white.png" not in reasons
    assert "empty file (zero bytes)" == reasons["across/empty.png"]
    splits = run.directory.splits.read_text(encoding="utf-8")
    assert "down/icon.png" not in splits
    assert "down/twin.png" not in splits
    assert "down/white.png" in splits
    assert any("lists files that are not there: down/gone.png" in text for text in told)
    assert {"wrong-ending", "odd-aspect", "excluded"} <= {finding["kind"] for finding in audit["findings"]}
    assert any("1 file with the ending of another format: down/named.png (is JPEG)" == text for text in told)


def test_the_manifest_of_a_scan_can_be_scanned_and_keeps_copies_on_one_side(trouble: Path, tmp_path: Path) -> None:
    first = upcycle.scan(trouble, out=tmp_path / "scan", show=Silent())
    second = upcycle.scan(first.path / "grouped.csv", out=tmp_path / "again", show=Silent())
    assert [] == [finding.kind for finding in second.audit.findings if finding.kind in ("leaks", "conflicts")]
    assert 44 == second.audit.images


def test_a_scan_with_a_list_looks_at_what_is_left(trouble: Path, tmp_path: Path) -> None:
    first = upcycle.scan(trouble, out=tmp_path / "scan", show=Silent())
    second = upcycle.scan(trouble, out=tmp_path / "again", quarantine=str(first.quarantine), show=Silent())
    assert not {"conflicts", "blank"} & set(kinds(second))
    assert "excluded" in kinds(second)
    assert listed(first) == listed(second)


def test_what_a_person_has_decided_stands_in_the_next_list(trouble: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    rows = (
        "excluded,path,reason",
        "no,./down/white.png,snow",
        f"yes,{trouble}/across/005.png,mine",
        "yes,./gone.png,",
    )
    mine.write_text("\n".join(rows) + "\n", encoding="utf-8")
    second = upcycle.scan(trouble, out=tmp_path / "again", quarantine=str(mine), show=Silent())
    assert ("no", "yes") == (listed(second)["down/white.png"], listed(second)["across/005.png"])
    assert not {path for path in listed(second) if "gone" in path or path.startswith((".", "/"))}


def test_a_list_that_leaves_too_little_to_train_on_is_scanned_all_the_same(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 3, "down": 2})
    mine = tmp_path / "mine.csv"
    mine.write_text("path\ndown/000.png\ndown/001.png\n", encoding="utf-8")
    found = upcycle.scan(data, out=tmp_path / "scan", quarantine=str(mine), show=Silent())
    assert "untrainable" in kinds(found)


def test_the_command_ends_with_0_whatever_it_finds_and_says_where_everything_is(
    trouble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert 0 == main(["scan", str(trouble), "--out", str(tmp_path / "scan"), "--html", str(page)])
    said = capsys.readouterr().out
    assert "! 1 image with different labels\n    across/001.png = down/twin.png" in said
    assert f"--quarantine {tmp_path / 'scan' / 'quarantine.csv'}" in said
    assert said.endswith(f"page: {page}\n")
    assert page.exists()
    assert not (tmp_path / "scan" / "scan.html").exists()


def test_what_cannot_be_scanned_is_one_line_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"")
    data = write_classes(tmp_path / "data", {"across": 2, "down": 2})
    for words, code in (
        ([str(tmp_path / "none")], 3),
        ([str(tmp_path / "empty")], 3),
        ([str(data), "--out", str(tmp_path / "full")], 5),
        ([str(data), "--out", str(data / "scan")], 2),
        ([str(data), "--html", str(data / "scan.html")], 2),
        ([str(data), "--quarantine", str(tmp_path / "none.csv")], 3),
        ([str(data), "--epochs", "3"], 2),
    ):
        assert code == main(["scan", *words, *([] if "--out" in words else ["--out", str(tmp_path / "out")])])
        assert 1 == len(capsys.readouterr().err.splitlines())


def test_the_same_mistakes_are_exceptions_in_python(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 2, "down": 2})
    with pytest.raises(DataError):
        upcycle.scan(tmp_path / "none", show=Silent())
    with pytest.raises(RunError):
        upcycle.scan(data, out=data / "across", show=Silent())
    with pytest.raises(ConfigError, match="unknown option"):
        upcycle.scan(data, out=tmp_path / "scan", epoch=3, show=Silent())


def test_images_that_cannot_be_trained_on_yet_are_scanned_and_told(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 4})
    scan = upcycle.scan(data, out=tmp_path / "scan", show=Silent())
    (finding,) = scan.audit.findings
    assert ["untrainable", True] == [finding.kind, finding.serious]
    assert finding.effect.startswith("only one class, 'across'")


def test_wrong_labels_are_found_where_they_are_asked_for(tmp_path: Path, tiny_weights: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 30, "round": 1, "disc": 30})
    shutil.rmtree(data / "round")
    swapped = data / "across" / "wrong.png"
    shutil.move(data / "disc" / "003.png", swapped)
    scan = upcycle.scan(
        data,
        out=tmp_path / "scan",
        label_errors=True,
        arch=TINY,
        weights=str(tiny_weights),
        show=Silent(),
    )
    (finding,) = (finding for finding in scan.audit.findings if finding.kind == "label-errors")
    assert "across/wrong.png" == finding.groups[0][0].path
    assert finding.groups[0][0].note.startswith("looks like disc, ")
    assert "no" == listed(scan)["across/wrong.png"]


def test_label_errors_need_weights_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_classes(tmp_path / "data", {"across": 8, "down": 8})
    read: list[Path] = []
    monkeypatch.setattr(isolation.DECODERS, "_ask", lambda task, source, *rest, **options: read.append(source))
    with pytest.raises(ConfigError, match="label-errors needs pretrained weights"):
        upcycle.scan(data, out=tmp_path / "scan", label_errors=True, arch=TINY, weights="none", show=Silent())
    assert [] == read


def test_the_trouble_in_real_photos_is_found(assets: Path, tmp_path: Path) -> None:
    scan = upcycle.scan(assets / "data" / "flowers5", out=tmp_path / "scan", show=Silent())
    counts = {finding.kind: finding.count for finding in scan.audit.findings}
    assert {"conflicts": 4, "near": 17, "gray": 69, "copies": 6} == counts
    aside = [path for path, answer in listed(scan).items() if answer == "yes"]
    assert 8 == len(aside)
    assert {"rose", "tulip"} == {path.split("/")[0] for path in aside}


def test_the_proposed_commands_keep_what_shaped_the_split(trouble: Path, tmp_path: Path) -> None:
    class Said(Silent):
        def message(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    upcycle.scan(trouble, out=tmp_path / "scan", seed=5, val_fraction=0.2, threads=1, show=Said())
    page = (tmp_path / "scan" / "scan.html").read_text(encoding="utf-8")
    kept = "--val-fraction 0.2 --seed 5"
    for text in ("\n".join(said), page):
        assert f"quarantine.csv {kept}" in text
        assert f"grouped.csv {kept}" in text
        assert "--threads 1 --" not in text.split("Repeat it")[0]


def test_images_excluded_by_a_list_are_not_called_unusable(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 20, "down": 20})
    mine = tmp_path / "mine.csv"
    mine.write_text("path\ndown/000.png\ndown/001.png\n", encoding="utf-8")
    upcycle.scan(data, out=tmp_path / "scan", quarantine=str(mine), show=Silent())
    assert "0 unusable files, 2 excluded" in Page(tmp_path / "scan" / "scan.html").text


def test_a_scan_needs_no_torch(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 4, "down": 4})
    code = "import sys; from upcycle.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, "scan", data, "--out", tmp_path / "scan"], check=True)
    assert (tmp_path / "scan" / "scan.html").exists()
