"""Curates a folder on a Ray cluster of this machine; one of two workers dies in the middle of a step.

python ray_cluster.py OUT FIELD=VALUE ...    (run by test_kills.py)

The worker kills itself at its first part of the step, and leaves a file that says so: a kill from outside may come when
no worker is at work.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from e2ed2.curation import run
from e2ed2.curation.pipeline import Pipeline, load_pipeline
from e2ed2.system.watch import silent

KILLED = Path(sys.argv[1]).with_suffix(".killed")


def doer(pipeline: Pipeline, step: str, done: tuple[str, ...]) -> Callable[[str], None]:
    do = run._doer(pipeline, step, done)  # in a worker: the true one

    def die_once(part: str) -> None:
        try:
            if step == "check":
                KILLED.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
        do(part)

    return die_once


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False)
run._doer = doer
run.curate(load_pipeline(Path("curation/folder"), [f"output.path={sys.argv[1]}", *sys.argv[2:]]), silent)
print(int(KILLED.exists()))
ray.shutdown()
cluster.shutdown()
