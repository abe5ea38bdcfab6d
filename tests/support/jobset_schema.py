"""Fields of the published schemas that our manifests may use.

JobSet: sigs.k8s.io/jobset, api/jobset/v1alpha2/jobset_types.go (v0.10). Job and Pod: the Kubernetes
API reference, batch/v1 JobSpec and core/v1 PodSpec (1.31), as far as we use them. A dict is an
object with these fields and no others, a list has items of one kind, a callable checks a value.
"""

import re


def one_of(*values):
    return lambda x: x in values


def matches(pattern):
    return lambda x: isinstance(x, str) and re.fullmatch(pattern, x) is not None


def string(x):
    return isinstance(x, str)


def boolean(x):
    return isinstance(x, bool)


def count(x):
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0


def strings_by_name(x):
    return isinstance(x, dict) and all(isinstance(v, str) for v in x.values())


DNS_LABEL = matches(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"


def labels(x):
    return strings_by_name(x) and all(re.fullmatch(LABEL_VALUE, v) for v in x.values())


CONTAINER = {
    "name": DNS_LABEL,
    "image": string,
    "command": [string],
    "env": [
        {"name": string, "value": string, "valueFrom": {"fieldRef": {"fieldPath": string}}},
    ],
    "ports": [{"containerPort": count}],
    "resources": {"limits": {"google.com/tpu": count, "nvidia.com/gpu": count}},
    "volumeMounts": [{"name": string, "mountPath": matches("/.+")}],
}
POD = {
    # With a podFailurePolicy nothing else is allowed.
    "restartPolicy": one_of("Never"),
    "terminationGracePeriodSeconds": count,
    "nodeSelector": labels,
    "tolerations": [
        {
            "key": string,
            "operator": one_of("Exists", "Equal"),
            "effect": one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
        }
    ],
    "containers": [CONTAINER],
    "volumes": [{"name": string, "persistentVolumeClaim": {"claimName": string}}],
}
JOB = {
    "parallelism": count,
    "completions": count,
    "completionMode": one_of("Indexed", "NonIndexed"),
    "backoffLimit": count,
    "podFailurePolicy": {
        "rules": [
            {
                "action": one_of("FailJob", "FailIndex", "Ignore", "Count"),
                "onExitCodes": {
                    "containerName": string,
                    "operator": one_of("In", "NotIn"),
                    "values": [lambda x: count(x) and x > 0],  # 0 is not allowed with In
                },
            }
        ]
    },
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": one_of("jobset.x-k8s.io/v1alpha2"),
    "kind": one_of("JobSet"),
    "metadata": {
        "name": DNS_LABEL,
        "namespace": DNS_LABEL,
        "labels": labels,
        "annotations": strings_by_name,
    },
    "spec": {
        "network": {
            "enableDNSHostnames": boolean,
            "subdomain": string,
            "publishNotReadyAddresses": boolean,
        },
        "successPolicy": {"operator": one_of("All", "Any"), "targetReplicatedJobs": [string]},
        "failurePolicy": {
            "maxRestarts": count,
            "restartStrategy": one_of("Recreate", "BlockingRecreate", "InPlaceRestart"),
            "rules": [
                {
                    "name": matches(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"),
                    "action": one_of(
                        "FailJobSet",
                        "RestartJobSet",
                        "RestartJobSetAndIgnoreMaxRestarts",
                        "RestartJob",
                        "RestartJobAndIgnoreMaxRestarts",
                    ),
                    "onJobFailureReasons": [
                        # As the webhook checks them: reasons of batch/v1.
                        one_of(
                            "BackoffLimitExceeded",
                            "DeadlineExceeded",
                            "FailedIndexes",
                            "MaxFailedIndexesExceeded",
                            "PodFailurePolicy",
                        )
                    ],
                    "targetReplicatedJobs": [string],
                }
            ],
        },
        "startupPolicy": {"startupPolicyOrder": one_of("AnyOrder", "InOrder")},
        "suspend": boolean,
        "coordinator": {"replicatedJob": string, "jobIndex": count, "podIndex": count},
        "managedBy": string,
        "ttlSecondsAfterFinished": count,
        "replicatedJobs": [
            {
                "name": DNS_LABEL,
                "groupName": string,
                "replicas": count,
                "template": {"spec": JOB},
            }
        ],
    },
}


def problems(value, schema, path="jobset"):
    """Where a manifest leaves the schema; empty if it does not."""
    if callable(schema):
        return [] if schema(value) else [f"{path}: {value!r}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [p for i, v in enumerate(value) for p in problems(v, schema[0], f"{path}[{i}]")]
    if not isinstance(value, dict):
        return [f"{path}: no object"]
    unknown = [f"{path}.{name}: unknown" for name in value if name not in schema]
    known = [n for n in value if n in schema]
    return unknown + [p for n in known for p in problems(value[n], schema[n], f"{path}.{n}")]
