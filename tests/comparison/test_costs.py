"""What a run would have taken had it been the only one."""

from types import SimpleNamespace
from typing import Any

from upcycle.comparison.costs import seconds, shared


def run(data: str, **status: float) -> Any:
    return SimpleNamespace(size=224, model={"arch": "resnet50"}, config={"data": data}, status=status)


def made(*runs: Any) -> Any:
    return SimpleNamespace(runs=runs, trials=())


def test_what_another_run_had_cached_is_added() -> None:
    first = run("/photos", seconds=30.0, decoding_seconds=5.0, features_seconds=10.0)
    later = run("/photos", seconds=14.0, decoding_seconds=0.1, features_seconds=0.2)
    costs = shared([made(first), made(later)])
    assert (30.0, 14.0 + 4.9 + 9.8) == (seconds(first, costs), seconds(later, costs))


def test_a_run_pays_nothing_for_the_images_of_another() -> None:
    few, all_of_them = (
        run(data, seconds=30.0, decoding_seconds=at) for data, at in (("/few.csv", 1.0), ("/all", 20.0))
    )
    costs = shared([made(few), made(all_of_them)])
    assert (30.0, 30.0) == (seconds(few, costs), seconds(all_of_them, costs))
