"""Where processes find each other, by what their starter has set."""

import pytest

from upcycle.errors import ConfigError
from upcycle.rendezvous import follows, may_restart, place_in, port_in, restarted
from upcycle.world import Place

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "MASTER_ADDR": "node1",
}


def test_torchrun_and_srun_say_which_process_this_is() -> None:
    assert Place(3, 4, 1, 2) == place_in(TORCHRUN)
    assert Place(6, 7, 0, 1) == place_in(SRUN)
    assert Place(2, 7, 0, 2) == place_in({**SRUN, "SLURM_PROCID": "2", "SLURM_NODEID": "1"})
    assert follows(TORCHRUN)
    assert not follows({**TORCHRUN, "RANK": "0"})


@pytest.mark.parametrize("alone", [{}, {"WORLD_SIZE": "1"}, {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}])
def test_one_process_is_none_of_several(alone: dict[str, str]) -> None:
    assert place_in(alone) is None
    assert not follows(alone)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"MASTER_ADDR": ""}, "WORLD_SIZE = 4, and MASTER_ADDR is not set: start it with torchrun"),
        ({"MASTER_PORT": ""}, "WORLD_SIZE = 4, and MASTER_PORT is not set: start it with torchrun"),
        ({"RANK": ""}, "WORLD_SIZE = 4, and RANK is not set: start it with torchrun"),
        ({"RANK": "4"}, "RANK = 4 is none of 4 processes: start it with torchrun"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE = 'four' is no whole number: start it with torchrun"),
    ],
)
def test_what_cannot_meet_is_refused(change: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        place_in({**TORCHRUN, **change})
    assert str(error.value).startswith(expected)


def test_srun_without_an_address_says_what_to_export() -> None:
    with pytest.raises(ConfigError, match=r"srun has started 7 processes, and MASTER_ADDR is not set: export"):
        place_in({name: value for name, value in SRUN.items() if name != "MASTER_ADDR"})


def test_jobs_of_one_machine_meet_at_ports_of_their_own() -> None:
    assert "29500" == port_in(TORCHRUN)
    assert port_in({"SLURM_JOB_ID": "71234"}) != port_in({"SLURM_JOB_ID": "71235"})


def test_restarts_are_known() -> None:
    assert restarted({"TORCHELASTIC_RESTART_COUNT": "2"})
    assert may_restart({"TORCHELASTIC_MAX_RESTARTS": "3"})
    assert not restarted({"TORCHELASTIC_RESTART_COUNT": "0"})
    assert not may_restart({})
