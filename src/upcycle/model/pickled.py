"""Torch files of tensors, read with `weights_only=True` after a look at all that their pickles name."""

import pickletools
import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from upcycle.model.foreign import SAVE

SHARED = 8
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


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, bare or one level down where other tools put them; ValueError for any other."""
    _check_archive(path)
    allowed: list[Any] = [(stand_in, _full_name(name)) for name, stand_in in _STAND_INS.items()]
    with torch.serialization.safe_globals(allowed):
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds no tensors by name; where it was made, save {SAVE}")
    tensors = {str(name).removeprefix("module."): tensor for name, tensor in _tensors(_innermost(content)).items()}
    if not tensors:
        nested = [str(name) for name, value in content.items() if isinstance(value, Mapping)]
        raise ValueError(f"it holds no tensors{f' but in {nested}: save one of these alone' if nested else ''}")
    _check_extent(tensors, path.stat().st_size)
    return tensors


def _full_name(name: str) -> str:
    """The name under which torch looks up what a pickle of protocol 2 names."""
    return name.replace("__builtin__", "builtins").replace(" ", ".")


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
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > SHARED * size:
        raise ValueError("its tensors claim more numbers than the file holds")
