"""The simple CNN that pretrained networks are compared with: three convolution blocks, trained from scratch."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from upcycle.data.preprocessing import Preprocessing

NAME = "simple-cnn"
PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), source="the simple CNN's own numbers")


class SimpleCnn(nn.Module):
    """Three blocks of 3x3 convolution, ReLU and 2x2 max pooling (32, 64, 128 channels), then a dense head.

    The maps are averaged to 4 x 4, so that any input from 32 pixels on fits; the head is 128 units
    with ReLU and one linear layer to `outputs`. 355,649 parameters with one output.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        blocks: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            blocks += [nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.dense = nn.Linear(128 * 16, 128)
        self.head = nn.Linear(128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, outputs] of images [B, 3, H, W]."""
        maps = self.pool(self.blocks(images)).flatten(1)
        return self.head(torch.relu(self.dense(maps)))  # type: ignore[no-any-return]
