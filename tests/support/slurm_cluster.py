"""A real Slurm of two nodes on this machine's loopback, for as long as a test needs it."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
MISSING = [p for p in PROGRAMS if shutil.which(p, path=f"{os.environ['PATH']}:/usr/sbin") is None]

CONFIG = """ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait={kill_wait}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=8 RealMemory=8000
NodeName=n2 NodeHostname=n2 NodeAddr=127.0.0.1 Port={port2} CPUs=8 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=hi Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def reason_to_skip():
    """Why there can be no Slurm here; empty if there can."""
    if MISSING:
        return f"Slurm is not installed: no {MISSING[0]} (slurmctld, slurmd, slurm-client)"
    return "" if os.geteuid() == 0 else "a Slurm of our own needs root"


@contextlib.contextmanager
def cluster(folder: pathlib.Path, kill_wait: int = 5):
    """Starts the daemons and points SLURM_CONF at them; gives the names of both nodes."""
    host = socket.gethostname().split(".")[0]
    ports = [free_port() for _ in range(3)]
    for name in ("state", "log", f"spool-{host}", "spool-n2"):
        (folder / name).mkdir(parents=True)
    text = CONFIG.format(
        host=host,
        folder=folder,
        kill_wait=kill_wait,
        port=ports[0],
        port1=ports[1],
        port2=ports[2],
    )
    (folder / "slurm.conf").write_text(text)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    daemons = [
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", host],
        ["slurmd", "-D", "-N", "n2"],
    ]
    running = []
    try:
        for number, command in enumerate(daemons):
            with open(folder / "log" / f"{number}.log", "w") as log:
                path = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
                running.append(
                    subprocess.Popen(
                        [path, *command[1:]], stdout=log, stderr=log, start_new_session=True
                    )
                )
        listed = ("sinfo", "-h", "-N", "-p", "main", "-o", "%T")
        wait_for(lambda: client(*listed).split() == ["idle"] * 2)
        yield host, "n2"
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            client("scancel", "--me")
            wait_for(lambda: not client("squeue", "-h").strip(), seconds=kill_wait + 30)
        for daemon in reversed(running):
            daemon.terminate()
        for daemon in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(30)
            daemon.kill()
        del os.environ["SLURM_CONF"]
        if before is not None:
            os.environ["SLURM_CONF"] = before


def client(*command):
    """What a Slurm command prints; empty if it fails: a controller that starts does not answer."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seconds} s: {client('squeue', '-a')}")
        time.sleep(0.2)


def release(job):
    """A requeued job waits two minutes; here it need not, once its old credential is a past one."""
    time.sleep(3)  # Slurm compares them by the second, and kills a job with the old one
    client("scontrol", "update", f"JobId={job}", "StartTime=now")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
