"""What a file or a folder that holds no usable weights is, by its content, and how to get weights from it."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

MAX_JSON = 64 * 2**20
"""Bytes of a JSON file that is looked into: the index of a sharded model has a few."""
SAVE = 'torch.save({k: v for k, v in model.state_dict().items()}, "weights.pth")'
"""What to run where a model was made, to get a file that is read here."""
EXPORT = f"load it in its own library, and save a PyTorch copy: {SAVE}"
TENSORFLOW = "which upcycle cannot read; give the same network's PyTorch weights"
UNPACK = "unpack it and give the file of weights inside"

_STARTS = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the weights; run git lfs pull in its folder"),
    (b"/annex/objects/", "is a git-annex pointer, not the weights; run git annex get on it"),
    (b"\x89HDF\r\n\x1a\n", f"is HDF5 (.h5), the format of Keras, {TENSORFLOW}"),
    (b"\x93NUMPY", f"is a NumPy array; {EXPORT}"),
    (b"GGUF", "is a GGUF file of a language model; give the weights of an image classifier"),
    (b"\x1f\x8b", f"is compressed (gzip); {UNPACK}"),
    (b"BZh", f"is compressed (bzip2); {UNPACK}"),
    (b"\xfd7zXZ\0", f"is compressed (xz); {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"is compressed (zstd); {UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7z archive; {UNPACK}"),
    (b"Rar!\x1a\x07", f"is a RAR archive; {UNPACK}"),
)
_TORCH_BEFORE_ARCHIVES = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a torch file begins that is no archive: a pickle of its magic number."""
_ONNX = re.compile(rb"\x08[\x01-\x0f][\x12\x1a\x22\x2a\x32\x3a\x42]", re.DOTALL)
_TENSORFLOW_NAME = re.compile(r".+\.(data-\d{5}-of-\d{5}|index|meta|pb)")
_WEIGHTS_NAME = re.compile(r".+\.(safetensors|pth|pt|ckpt|bin|tar)")


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
    known = next((told for magic, told in _STARTS if start.startswith(magic)), "")
    if known:
        return known
    if start[257:262] == b"ustar":
        return f"is a tar archive; {UNPACK}"
    if start[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model, {TENSORFLOW}"
    if _ONNX.match(start):
        return "is ONNX, which upcycle cannot read; give the PyTorch weights that it was exported from"
    if _TENSORFLOW_NAME.fullmatch(path.name):
        return f"is part of a TensorFlow model, {TENSORFLOW}"
    if start.startswith(b"\x80") and not start.startswith(_TORCH_BEFORE_ARCHIVES):
        return f"is a pickle that torch did not write, and is not opened; where it was made, save {SAVE}"
    return "" if start.startswith(_TORCH_BEFORE_ARCHIVES) else _of_text(path, start)


def _of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "is an archive that was cut short or damaged; copy or download it again"
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return (
            "is a TorchScript archive, which holds code; where it was made, load it with torch.jit.load as model, and "
            f"save {SAVE}"
        )
    if "data.pkl" in inner or "data.pkl" in names:
        return ""
    if {"archive_format", "serialized_exported_program.json"} & {*inner, *names}:
        return (
            "is a torch.export archive (.pt2), which holds code; where it was made, load it as model with "
            f"torch.export.load(FILE).module(), and save {SAVE}"
        )
    if "config.json" in names and "model.weights.h5" in names:
        return f"is a Keras model (.keras), {TENSORFLOW}"
    if any(name.endswith(".npy") for name in names):
        return "is a NumPy archive (.npz), as JAX models have it; give the same network's PyTorch weights"
    held = next((name for name in names if _WEIGHTS_NAME.fullmatch(name.lower())), "")
    return f"is a zip archive that torch did not write{f', with {held[-80:]!r} in it' if held else ''}; {UNPACK}"


def _of_text(path: Path, start: bytes) -> str:
    """What a file that is neither safetensors nor torch's is."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        return (
            "is a web page, not weights, so its download failed; download it again, and log in if the site asks for it"
        )
    if text.startswith((b"{", b"[")) and b"\0" not in start:
        return _of_json(path)
    if text.startswith(b"http"):
        return "is an address, not weights; download what it names"
    return "is neither a safetensors nor a torch file; give a .safetensors, .pth, .pt or .ckpt file"


def _of_json(path: Path) -> str:
    shards: set[str] = set()
    try:
        if path.stat().st_size <= MAX_JSON:
            content = json.loads(path.read_bytes())
            parts = content.get("weight_map") if isinstance(content, dict) else None
            shards = {str(part) for part in parts.values()} if isinstance(parts, dict) else set()
    except (ValueError, RecursionError):
        pass
    if shards:
        return (
            f"is the index of weights in {len(shards)} files; join them where they were made: save_pretrained with "
            'max_shard_size="100GB" writes one'
        )
    return "is JSON, not weights; give the .safetensors, .pth or .bin file that it belongs to"


def folder_refusal(folder: Path) -> str:
    """What a folder is that holds no weights under a name that is known, and what to give; never ""."""
    names = sorted(path.name for path in folder.iterdir())
    for told, belongs in _FOLDERS:
        if any(belongs(name) for name in names):
            return told
    held = [name for name in names if _WEIGHTS_NAME.fullmatch(name.lower())]
    if held:
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        return f"is a folder with {held[0]}{more}; give the file of weights itself"
    return "is a folder without weights; give a file, a run of upcycle, or a folder with model.safetensors"


_FOLDERS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    (
        "is a model in several files, with an index; join them where they were made: save_pretrained with "
        'max_shard_size="100GB" writes one',
        lambda name: name.endswith((".safetensors.index.json", ".bin.index.json")),
    ),
    (f"is a TensorFlow SavedModel, {TENSORFLOW}", lambda name: name in ("saved_model.pb", "keras_metadata.pb")),
    (
        f"is a folder of TensorFlow checkpoints, {TENSORFLOW}",
        lambda name: bool(re.fullmatch(r".+\.data-\d{5}-of-\d{5}", name)),
    ),
    (
        f"is a TensorFlow or JAX model of Hugging Face transformers, {TENSORFLOW}",
        lambda name: name in ("tf_model.h5", "flax_model.msgpack"),
    ),
    (
        "is a distributed checkpoint in several files; join them where it was made: python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth",
        lambda name: name.endswith(".distcp"),
    ),
    (
        "is an adapter of PEFT, not a whole network; where it was made, take model.merge_and_unload() as model, and "
        f"save {SAVE}",
        lambda name: name == "adapter_config.json",
    ),
    (
        "is a folder of Hugging Face's cache; give the folder below its snapshots/",
        lambda name: name == "snapshots",
    ),
    (
        "is a pipeline of Hugging Face diffusers, no image classifier; give a classifier's weights",
        lambda name: name == "model_index.json",
    ),
    ("is a torch file that was unpacked; give the file as it was before", lambda name: name == "data.pkl"),
    (
        "is what a training of upcycle keeps in checkpoints/; give the run it belongs to, or its best.safetensors",
        lambda name: name == "best.safetensors",
    ),
)
