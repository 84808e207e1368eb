"""The checksum that a file of tensors holds of itself, so that damage which leaves it readable is found."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

CHECKSUM = "upcycle-sha256"
"""The entry of a file's metadata that holds its checksum."""


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The sha256 of names, kinds, shapes and bytes of tensors on the CPU, and of the other metadata."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
