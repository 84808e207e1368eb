"""Torch files of tensors, read with `weights_only=True` after a look at all that their pickles name.

What a file that holds no usable weights is, by its content, and how to get weights from it.
"""

import pickletools
import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from timm.models import clean_state_dict
from torch import Tensor

SAVE = 'torch.save({k: v for k, v in model.state_dict().items()}, "weights.pth")'
"""What to run where a model was made, to get a file that is read here."""
TENSORFLOW = "which upcycle cannot read; give the same network's PyTorch weights"
SEVERAL = 'join them where they were made: save_pretrained with max_shard_size="100GB" writes one'
UNPACK = "unpack it and give the file of weights inside"

_MAGIC = (
    (0, b"version https://git-lfs", "is a git-lfs pointer, not the weights; run git lfs pull in its folder"),
    (0, b"/annex/objects/", "is a git-annex pointer, not the weights; run git annex get on it"),
    (0, b"\x89HDF\r\n\x1a\n", f"is HDF5 (.h5), the format of Keras, {TENSORFLOW}"),
    (0, b"\x93NUMPY", f"is a NumPy array; load it in its own library, and save a PyTorch copy: {SAVE}"),
    (0, b"GGUF", "is a GGUF file of a language model; give the weights of an image classifier"),
    (0, b"\x1f\x8b", f"is compressed (gzip); {UNPACK}"),
    (0, b"\xfd7zXZ\0", f"is compressed (xz); {UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"is compressed (zstd); {UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"is a 7z archive; {UNPACK}"),
    (257, b"ustar", f"is a tar archive; {UNPACK}"),
    (4, b"TFL3", f"is a TensorFlow Lite model, {TENSORFLOW}"),
)
"""What files of other kinds have at a place, what they are, and what to do."""
_TORCH_BEFORE_ARCHIVES = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a torch file begins that is no archive: a pickle of its magic number."""
_ONNX = re.compile(rb"\x08[\x01-\x0f][\x12\x1a\x22\x2a\x32\x3a\x42]", re.DOTALL)
_TENSORFLOW_NAME = re.compile(r".+\.(data-\d{5}-of-\d{5}|index|meta|pb)")
WEIGHTS_NAME = re.compile(r".+\.(safetensors|pth|pt|ckpt|bin|tar)")
_SHARED = 8
"""Weights may repeat the bytes of their file this often."""
LEGACY_PICKLES = 5
"""A torch file that is no archive begins with so many: magic number, version, system, content, keys."""
_NEEDED = re.compile(
    r"collections OrderedDict|torch (device|Size|\w+Storage|b?float\d+\w*|u?int\d+|bool|complex\d+)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\.storage \w+Storage"
)
"""What the pickle of a file of tensors names."""
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


class _Nothing:
    """What stands for a setting beside the tensors: it takes any value and keeps none, so nothing is made of it."""

    __slots__ = ()

    def __new__(cls, *_: object) -> "_Nothing":
        return object.__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


class _Entries:
    """What stands for other kinds of dictionary: a plain one."""

    def __new__(cls, *_: object) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


_STAND_INS: dict[str, type] = {
    "argparse Namespace": _Nothing,
    **{
        f"pathlib {name}": _Nothing for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
    **{f"pathlib._local {name}": _Nothing for name in ("PosixPath", "WindowsPath")},
    **{f"__builtin__ {name}": _Nothing for name in ("list", "dict", "int", "float", "str", "bool")},
    **{
        f"numpy{core}.multiarray {name}": _Nothing
        for core in (".core", "._core")
        for name in ("scalar", "_reconstruct")
    },
    **{f"numpy {name}": _Nothing for name in ("dtype", "ndarray")},
    "collections defaultdict": _Entries,
    "pytorch_lightning.utilities.parsing AttributeDict": _Entries,
    "lightning.pytorch.utilities.parsing AttributeDict": _Entries,
    "lightning_fabric.utilities.data AttributeDict": _Entries,
    "lightning.fabric.utilities.data AttributeDict": _Entries,
}
"""Settings that tools keep beside tensors, as a pickle names them, and what is put in their place unmade."""

_ENCODE = "_codecs encode"
"""What a pickle of protocol 2 makes bytes of numpy's numbers with."""
_CALL = (("text", None), ("text", "latin1"), ("TUPLE2", None), ("REDUCE", None))
"""All that may follow it: a text, the one encoding that never lengthens it, and the call."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, bare or one level down where other tools put them; ValueError for any other."""
    _check_archive(path)
    # torch looks names of a pickle of protocol 2 up in this form
    names = {name: name.replace("__builtin__", "builtins").replace(" ", ".") for name in _STAND_INS}
    allowed: list[Any] = [(stand_in, names[name]) for name, stand_in in _STAND_INS.items()]
    with torch.serialization.safe_globals(allowed):
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds no tensors by name; where it was made, save {SAVE}")
    tensors = clean_state_dict({str(name): tensor for name, tensor in _tensors(_innermost(content)).items()})
    if not tensors:
        nested = [str(name) for name, value in content.items() if isinstance(value, Mapping)]
        raise ValueError(f"it holds no tensors{f' but in {nested}: save one of these alone' if nested else ''}")
    _check_extent(tensors, path.stat().st_size)
    return tensors


def _innermost(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The entry that holds the network's tensors: one of a name that tools use, or the only one that holds any."""
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            inner: Mapping[Any, Any] = content[wrapper]
            return inner
    holding = [value for value in content.values() if isinstance(value, Mapping) and _tensors(value)]
    return holding[0] if len(holding) == 1 and not _tensors(content) else content


def _tensors(content: Mapping[Any, Any]) -> dict[Any, Tensor]:
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _check_archive(path: Path) -> None:
    """ValueError for a torch file that would unpack to more than it holds: torch itself never compresses.

    Nor may its pickles call anything that makes more of their bytes than tensors of the file.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # as torch tells them
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                _check_pickle(file)
            return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is a compressed archive, not one that torch writes")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it is an archive that claims to hold more than it does")
        for entry in entries:
            if entry.filename.lower().endswith(".pkl"):
                _check_pickle(BytesIO(archive.read(entry)))


def _check_pickle(file: IO[bytes]) -> None:
    """ValueError where the pickle at the file's place names what a file of tensors has no need of."""
    start, within, encodes = file.tell(), False, False
    for operation, value, _ in pickletools.genops(file):
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            raise ValueError("its pickle is not one that torch writes")
        if operation.name == "GLOBAL" and not _NEEDED.fullmatch(str(value)) and value not in (*_STAND_INS, _ENCODE):
            name = str(value)[:80].replace(" ", ".")
            what = "its pickle asks for" if within else "it is a pickled object of the class"
            advice = f"where it was made, save {SAVE}"
            raise ValueError(f"{what} {name}, which a file of tensors has no need of; {advice}")
        within = within or operation.name in ("GLOBAL", "EMPTY_DICT", "EMPTY_LIST", "DICT", "LIST")
        encodes = encodes or value == _ENCODE
    if encodes:
        file.seek(start)
        _check_encodings(file)


def _check_encodings(file: IO[bytes]) -> None:
    """ValueError where the pickle at the file's place makes other bytes than a text's own, or more than it has read.

    torch lets a pickle call `_codecs.encode`, whose other encodings could make ever longer bytes of their own results.
    """
    memo: dict[Any, tuple[str, Any]] = {}
    last, awaited, encoded, start = ("", None), len(_CALL), 0, file.tell()
    for operation, value, place in pickletools.genops(file):
        if operation.name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = last if last[0] in ("text", _ENCODE) else ("", None)
            continue
        if operation.name in ("BINGET", "LONG_BINGET"):
            last = memo.get(value, ("", None))
        else:
            made = {"BINUNICODE": "text", "GLOBAL": str(value)}
            last = made.get(operation.name, operation.name), value
        if awaited < len(_CALL):
            kind, only = _CALL[awaited]
            encoded += len(str(last[1])) if awaited == 0 else 0
            longer = awaited > 0 and encoded > (place or 0) - start  # the place is where an operation begins
            if last[0] != kind or (only is not None and last[1] != only) or longer:
                raise ValueError("its pickle makes bytes in a way that torch does not write")
            awaited += 1
        elif last[0] == _ENCODE:
            awaited = 0


def _check_extent(tensors: Mapping[str, Tensor], size: int) -> None:
    """ValueError for tensors that repeat a few numbers of the file many times, or are of an unusual kind.

    Made dense they would fill the memory. Networks share weights between a few layers, hence the factor.
    """
    if any(tensor.layout != torch.strided or tensor.is_quantized for tensor in tensors.values()):
        raise ValueError("it holds sparse or quantized tensors")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > _SHARED * size:
        raise ValueError("its tensors claim more numbers than the file holds")


def refusal(path: Path) -> str:
    """Why a file cannot hold weights that are read here, and what to do, in a few words; "" where it may hold some."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "is empty; copy or download it again"
    if start[4:8] == b"\0\0\0\0" and start[8:9] == b"{":  # the length and the beginning of a safetensors header
        return ""
    if start[:4] == b"PK\x03\x04":
        return _of_zip(path)
    known = next((told for place, magic, told in _MAGIC if start.startswith(magic, place)), "")
    if known:
        return known
    if _ONNX.match(start):
        return "is ONNX, which upcycle cannot read; give the PyTorch weights that it was exported from"
    if _TENSORFLOW_NAME.fullmatch(path.name):
        return f"is part of a TensorFlow model, {TENSORFLOW}"
    if start.startswith(b"\x80") and not start.startswith(_TORCH_BEFORE_ARCHIVES):
        return f"is a pickle that torch did not write, and is not opened; where it was made, save {SAVE}"
    return "" if start.startswith(_TORCH_BEFORE_ARCHIVES) else _of_text(start)


def _of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "is an archive that was cut short or damaged; copy or download it again"
    held = {*names, *(name.partition("/")[2] for name in names)}
    if "constants.pkl" in held and any(name.startswith("code/") for name in held):
        return (
            "is a TorchScript archive, which holds code; where it was made, load it with torch.jit.load as model, and "
            f"save {SAVE}"
        )
    if "data.pkl" in held:
        return ""
    if {"archive_format", "serialized_exported_program.json"} & held:
        return (
            "is a torch.export archive (.pt2), which holds code; where it was made, load it as model with "
            f"torch.export.load(FILE).module(), and save {SAVE}"
        )
    if {"config.json", "model.weights.h5"} <= held:
        return f"is a Keras model (.keras), {TENSORFLOW}"
    if any(name.endswith(".npy") for name in names):
        return "is a NumPy archive (.npz), as JAX models have it; give the same network's PyTorch weights"
    inside = next((name for name in names if WEIGHTS_NAME.fullmatch(name.lower())), "")
    return f"is a zip archive that torch did not write{f', with {inside[-80:]!r} in it' if inside else ''}; {UNPACK}"


def _of_text(start: bytes) -> str:
    """What a file that is neither safetensors nor torch's is."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        return (
            "is a web page, not weights, so its download failed; download it again, and log in if the site asks for it"
        )
    if text.startswith((b"{", b"[")) and b"\0" not in start:
        if b'"weight_map"' in text:
            return f"is the index of weights in several files; {SEVERAL}"
        return "is JSON, not weights; give the .safetensors, .pth or .bin file that it belongs to"
    if text.startswith(b"http"):
        return "is an address, not weights; download what it names"
    return "is neither a safetensors nor a torch file; give a .safetensors, .pth, .pt or .ckpt file"
