"""A sweep's plan as jobs on a cluster or on this machine; imports no JAX.

Slurm and Kubernetes schedule, JAX's own runtime connects the processes of a job. Here a plan's
rows are rendered, submitted and kept track of; the truth about a row is its folder.
"""
