import pytest

from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ConfigError


def test_what_is_white_is_kept_and_may_be_missing_in_what_older_runs_wrote() -> None:
    assert Preprocessing.from_dict(Preprocessing(scale=4095).to_dict()).scale == 4095
    old = Preprocessing().to_dict()
    del old["scale"]
    assert Preprocessing.from_dict(old).scale is None


@pytest.mark.parametrize("scale", [0, -1, float("nan"), "4095", True])
def test_white_is_a_positive_number(scale: object) -> None:
    with pytest.raises(ConfigError, match="must be a positive number: the value that is white$"):
        Preprocessing.from_dict({**Preprocessing().to_dict(), "scale": scale})
