"""Kubernetes: a JobSet per row, queued by Kueue, for TPU slices (one or several) and GPU nodes.

Manifests are plain dicts, written as JSON, which is YAML: `kubectl create -f` takes either.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import re
import shlex
from collections.abc import Iterable
from typing import Any

from grokjax.base.errors import UserError
from grokjax.runtime.heartbeat import JOB
from launch.client import ask
from launch.job import Job, job_name, require_number
from launch.status import Queued

_PORT = 8476  # of the coordinator
_LABEL = "grokjax.dev/workdir"
_USER_ERRORS = [1, 2]  # exit codes that another try would give again


# The labels of nodes, and what `grokjax compile` calls what they have.
_ACCELERATORS = {
    "tpu-v5-lite-podslice": "v5e",
    "tpu-v5p-slice": "v5p",
    "tpu-v6e-slice": "v6e",
    "nvidia-a100-80gb": "a100",
    "nvidia-h100-80gb": "h100",
    "nvidia-h100-mega-80gb": "h100",
    "nvidia-h200-141gb": "h200",
}


@dataclasses.dataclass(frozen=True)
class GkeOptions:
    """What a cluster is told beyond the job.

    Attributes:
      queue: Kueue's local queue.
      accelerator: the node's label, `tpu-v5-lite-podslice` or `nvidia-h100-80gb`, say.
      topology: of a TPU slice, `4x4`; empty for GPUs.
      slices: TPU slices of a row, over which its runs are spread.
      volume: `CLAIM:/PATH`, the persistent volume claim that holds the workdir.
      max_restarts: after preemptions and lost machines; each goes on from the last checkpoint.
      grace_seconds: for saving, between SIGTERM and SIGKILL.
    """

    queue: str
    accelerator: str
    volume: str
    topology: str = ""
    slices: int = 1
    namespace: str = "default"
    max_restarts: int = 50
    grace_seconds: int = 120

    def __post_init__(self) -> None:
        require_number("--slices", self.slices, least=1)
        require_number("--max-restarts", self.max_restarts)
        require_number("--grace-seconds", self.grace_seconds)


def check_target(args: argparse.Namespace) -> None:
    """Refuses to plan for another machine than the one that is asked for.

    Raises:
      UserError: which it is.
    """
    kind = _ACCELERATORS.get(args.accelerator)
    if not args.target or kind is None:
        return
    own = f"{kind}:{args.nodes * args.devices_per_node}"
    if args.topology:
        own = f"{kind}:{args.topology}" + f":{args.slices}" * (args.slices > 1)
    if args.target != own and not (own.endswith(":1") and args.target == kind):
        raise UserError(f"--target={args.target}: a row's machines are {own}; plan for that")


def slice_hosts(topology: str, devices_per_node: int) -> int:
    """Machines of a TPU slice.

    Raises:
      UserError: the topology is none, or its chips do not fill machines.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", topology):
        raise UserError(f"--topology={topology}: give chips along each axis, 4x4 or 2x2x4")
    chips = math.prod(map(int, topology.split("x")))
    if devices_per_node < 1 or chips % devices_per_node:
        raise UserError(
            f"--topology={topology}: {chips} chips are no multiple of"
            f" --devices-per-node={devices_per_node}"
        )
    return chips // devices_per_node


def render(job: Job, options: GkeOptions) -> list[dict[str, Any]]:
    """A JobSet for each row."""
    claim, _, mount = options.volume.partition(":")
    if not claim or not job.workdir.is_relative_to(mount or "-"):
        raise UserError(
            f"--volume={options.volume}: give CLAIM:/PATH, where the workdir {job.workdir} is"
            " below /PATH here and in the cluster"
        )
    if not job.container:
        raise UserError("--container: missing; pods need an image with Python and grokjax")
    return [_jobset(job, options, population) for population in job.populations]


def manifest(jobsets: Iterable[dict[str, Any]]) -> str:
    """What `kubectl create -f` reads."""
    content = {"apiVersion": "v1", "kind": "List", "items": list(jobsets)}
    return json.dumps(content, indent=2) + "\n"


def submit(path: pathlib.Path) -> str:
    """Creates what a manifest asks for; the name of a row is taken as long as its JobSet exists."""
    return _client("create", "-f", str(path), "-o", "name")


def queue(workdir: pathlib.Path, namespace: str = "default") -> dict[str, Queued]:
    """JobSets of a workdir's rows that have not ended, by population."""
    found = json.loads(
        _client("get", "jobsets", "-n", namespace, "-l", f"{_LABEL}={job_name(workdir)}", "-o=json")
    )
    rows = {}
    for item in found["items"]:
        conditions = item.get("status", {}).get("conditions", [])
        ended = {c["type"] for c in conditions if c["status"] == "True"}
        if ended & {"Completed", "Failed"}:
            continue
        waiting = item["spec"].get("suspend", False)
        name = item["metadata"]["name"]
        rows[name.rsplit("-", 1)[1]] = Queued(name, "PENDING" if waiting else "RUNNING")
    return rows


def remove(names: Iterable[str], namespace: str) -> None:
    """Deletes JobSets; running pods get a SIGTERM and the grace period, and save."""
    if names := list(names):
        _client("delete", "jobsets", "-n", namespace, "--ignore-not-found", *names)


def jobset_name(workdir: pathlib.Path, population: str) -> str:
    return f"{job_name(workdir)}-{population}"


def _jobset(job: Job, options: GkeOptions, population: str) -> dict[str, Any]:
    name = jobset_name(job.workdir, population)
    annotations = {}
    if options.topology:  # a slice's hosts are one node pool, and no other job's
        key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
        annotations[key] = "cloud.google.com/gke-nodepool"
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": options.namespace,
            "labels": {"kueue.x-k8s.io/queue-name": options.queue, _LABEL: job.name},
            "annotations": annotations,
        },
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": options.max_restarts,
                # Never two generations of pods in one workdir.
                "restartStrategy": "BlockingRecreate",
                "rules": [
                    # What fails alike each time is not tried again.
                    {
                        "name": "badInput",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "successPolicy": {"operator": "All"},
            "replicatedJobs": [
                {
                    "name": "workers",
                    "replicas": options.slices,
                    "template": {"spec": _job_spec(job, options, name, population)},
                }
            ],
        },
    }


def _job_spec(job: Job, options: GkeOptions, name: str, population: str) -> dict[str, Any]:
    claim = options.volume.partition(":")[0]
    hosts = job.nodes // options.slices
    selector = {"cloud.google.com/gke-accelerator": options.accelerator}
    if options.topology:
        selector = {
            "cloud.google.com/gke-tpu-accelerator": options.accelerator,
            "cloud.google.com/gke-tpu-topology": options.topology,
        }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace_seconds,
        "nodeSelector": selector,
        "containers": [_container(job, options, name, population)],
        "volumes": [{"name": "workdir", "persistentVolumeClaim": {"claimName": claim}}],
    }
    if not options.topology:
        pod["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    return {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one lost process ends the job; the JobSet starts all of them again
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "worker",
                        "operator": "In",
                        "values": _USER_ERRORS,
                    },
                }
            ]
        },
        "template": {"spec": pod},
    }


def _container(job: Job, options: GkeOptions, name: str, population: str) -> dict[str, Any]:
    resource = "google.com/tpu" if options.topology else "nvidia.com/gpu"
    environment = {JOB: name}
    if not options.topology and job.nodes > 1:  # JAX finds TPU hosts by itself
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"{name}-workers-0-0.{name}:{_PORT}",
            "JAX_NUM_PROCESSES": str(job.nodes),
        }
    listed: list[dict[str, Any]] = [{"name": n, "value": v} for n, v in environment.items()]
    if "JAX_NUM_PROCESSES" in environment:
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        listed.append({"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}})
    # `exec`: the worker, not the shell, gets Kubernetes' SIGTERM.
    command = f"exec {shlex.join(job.worker(population))}"
    return {
        "name": "worker",
        "image": job.container,
        "command": ["bash", "-c", f"{job.setup} && {command}" if job.setup else command],
        "env": listed,
        "ports": [{"containerPort": _PORT}],
        "resources": {"limits": {resource: job.devices_per_node}},
        "volumeMounts": [{"name": "workdir", "mountPath": options.volume.partition(":")[2]}],
    }


def _client(*command: str) -> str:
    return ask(
        ("kubectl", *command),
        missing="install it, or use --dry-run for the YAML",
        silent="is the cluster up?",
    )
