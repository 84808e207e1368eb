"""A Ray cluster on this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import upcycle


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A cluster of one node without processors."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(upcycle.__file__).parents[1]))
        room = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **room})
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def nodes(head: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The cluster with two nodes of one processor each, and these two."""
    both = [head.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    head.wait_for_nodes()
    yield head, both
    for node in both:
        if node in head.list_all_nodes():
            head.remove_node(node, allow_graceful=False)
