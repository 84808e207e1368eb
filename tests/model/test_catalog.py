import timm

from upcycle.model.catalog import BACKBONES
from upcycle.model.sources import pretrained_cfg, resolve_arch


def test_every_backbone_is_known_to_timm_and_none_is_there_twice() -> None:
    archs = [resolve_arch(one.name) for one in BACKBONES]
    assert len(archs) == len(set(archs))
    known = set(timm.list_pretrained())
    assert [] == [arch for arch in archs if "." in arch and arch not in known]


def test_the_license_is_the_one_that_timm_gives() -> None:
    for one in BACKBONES:
        assert one.license.lower() == pretrained_cfg(resolve_arch(one.name)).license
