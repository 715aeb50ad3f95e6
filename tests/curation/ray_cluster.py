"""Curates a folder on a Ray cluster of this machine; one of two workers is killed in the middle of a step.

python ray_cluster.py OUT FIELD=VALUE ...    (run by test_kills.py)
"""

import sys
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

from e2ed2.curation.pipeline import load_pipeline
from e2ed2.curation.run import curate

killed: list[int] = []


def watch(step: str, done: int, total: int) -> None:
    if step == "check" and 0 < done < total and not killed:
        workers = [
            process for process in psutil.process_iter(["cmdline"])
            if "ray::" in " ".join(process.info["cmdline"] or []) and "UDF" in " ".join(process.info["cmdline"])
        ]  # fmt: skip
        killed.extend(worker.pid for worker in workers[:1])
        for worker in workers[:1]:
            worker.kill()


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False)
curate(load_pipeline(Path("curation/folder"), [f"output.path={sys.argv[1]}", *sys.argv[2:]]), watch)
print(len(killed))
ray.shutdown()
cluster.shutdown()
