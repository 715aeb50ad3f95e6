"""Curates a folder on a Ray cluster of this machine; one of two workers dies in the middle of a step.

python ray_cluster.py OUT FIELD=VALUE ...    (run by test_kills.py)

The worker kills itself at the first part, and leaves a file that says so: a kill from outside may come when no worker
is at work.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from e2ed2.curation import run
from e2ed2.curation.items import part_name
from e2ed2.curation.pipeline import Pipeline, load_pipeline
from e2ed2.curation.stages import units
from e2ed2.system.watch import silent

KILLED, FIRST = Path(sys.argv[1]).with_suffix(".killed"), part_name(0, 0)


def doer(pipeline: Pipeline, step: str, done: tuple[str, ...]) -> Callable[[str], None]:
    do = units.doer(pipeline, step, done)  # in a worker: the true one

    def die_once(part: str) -> None:
        if step == "check" and part == FIRST and not KILLED.exists():
            KILLED.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        do(part)

    return die_once


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False)
run.doer = doer
run.curate(load_pipeline(Path("curation/folder"), [f"output.path={sys.argv[1]}", *sys.argv[2:]]), silent)
print(int(KILLED.exists()))
ray.shutdown()
cluster.shutdown()
