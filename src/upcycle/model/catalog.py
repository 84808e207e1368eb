"""Backbones worth racing: small enough for a processor, each with the license of its weights.

The list is short on purpose: networks of other families and other pretraining, none of which is best everywhere.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """An architecture as `--arch` takes it, the license of its weights, and their size in 10**6 bytes."""

    name: str
    license: str
    megabytes: int


BACKBONES = (
    Backbone("resnet50", "BSD-3-Clause", 102),  # timm's tv_in1k
    Backbone("resnet50.a1_in1k", "Apache-2.0", 102),
    Backbone("convnext_nano.in12k_ft_in1k", "Apache-2.0", 62),
    Backbone("convnext_tiny.in12k_ft_in1k", "Apache-2.0", 114),
    Backbone("hgnetv2_b2.ssld_stage2_ft_in1k", "Apache-2.0", 45),
    Backbone("regnety_032.ra_in1k", "Apache-2.0", 78),
    Backbone("tiny_vit_11m_224.dist_in22k_ft_in1k", "Apache-2.0", 44),
    Backbone("vit_small_patch14_dinov2.lvd142m", "Apache-2.0", 88),
    Backbone("tf_efficientnet_lite0", "Apache-2.0", 19),
    Backbone("tf_efficientnet_lite1", "Apache-2.0", 22),
    Backbone("tf_efficientnet_lite2", "Apache-2.0", 25),
)
"""The candidates of a race by default, if their weights are at hand; sizes in fp32."""
