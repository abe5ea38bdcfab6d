"""From a command line to jobs: the plan, what of it is unfinished, preflight, rendering, books."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from grokjax.base.errors import UserError
from grokjax.base.names import FAILED
from grokjax.base.text import HOW_FAR, counted
from grokjax.runtime.interrupt import ended_with_us
from grokjax.settings.config import flatten
from grokjax.settings.declarations import SETTINGS
from grokjax.settings.own_functions import is_own, is_own_file, values_of
from grokjax.sweeps.plan import PLAN, Plan, PlannedPopulation, require_plan
from launch import gke, local, slurm
from launch.books import (
    JOBS,
    books_folder,
    forget_stop,
    is_locked,
    locked,
    note_stop,
    record,
    records,
)
from launch.job import Job, single_process
from launch.preflight import check_devices, check_disk, check_workdir
from launch.status import Queued, Row, survey, table, unfinished

_ERROR = "grokjax: error: "
_TYPES = {"int": int, "tuple[str, ...]": list}  # what JSON has of an option; others are texts
_KINDS = {"slurm": slurm.SlurmOptions, "gke": gke.GkeOptions, "local": local.LocalOptions}


def launch(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Plans, then submits what is unfinished and nobody's; `local` trains it here.

    Args:
      args: of one of the launchers' commands.
      overrides: `--config.SECTION.NAME=VALUE`, for the plan.

    Returns:
      The exit code.
    """
    workdir = args.workdir
    if args.dry_run:
        plan = _plan_elsewhere(args, overrides)
        return _submit(args, plan, survey(workdir, plan, {}))
    with locked(workdir):
        check_workdir(workdir)
        _plan(args, overrides, workdir)
        plan = require_plan(workdir)
        return _submit(args, plan, survey(workdir, plan, queued(workdir, args.launcher)))


def retry(workdir: pathlib.Path, populations: Sequence[str]) -> int:
    """Submits failed rows again, each with the options that it had.

    Args:
      workdir: of the sweep.
      populations: of the failed rows; empty: all.
    """
    plan = require_plan(workdir)
    with locked(workdir):
        rows = [row for row in survey(workdir, plan, queued(workdir)) if row.state == FAILED]
        failed = [row.population for row in rows]
        for name in populations:
            if plan.population(name).name not in failed:
                raise UserError(f"population {name}: has not failed")
        rows = [row for row in rows if not populations or row.population in populations]
        if not rows:
            print(f"{workdir}: nothing has failed")
        codes = [0]
        for options, own in _by_options(workdir, rows):
            args = argparse.Namespace(**options, workdir=workdir, dry_run=False)
            codes.append(_submit(args, plan, own))
    return max(codes)


def stop(workdir: pathlib.Path) -> None:
    """Cancels what waits and lets what runs save and leave; nothing is started again."""
    plan = require_plan(workdir)
    note_stop(workdir)
    scheduled = _queued_by(workdir)
    slurm.stop(scheduled.get("slurm", {}).values())
    gke.remove([task.job for task in scheduled.get("gke", {}).values()], _namespace(workdir))
    names = {name for found in scheduled.values() for name in found}
    if is_locked(workdir):
        local.stop_launcher(records(workdir))
    others = [row for row in survey(workdir, plan, {}) if row.is_taken]
    elsewhere = local.stop(workdir, [r.population for r in others if r.population not in names])
    asked = names | {row.population for row in others} - set(elsewhere)
    print(f"{workdir}: {counted(len(asked), 'row')} asked to stop")
    for population, where in elsewhere.items():
        print(f"population {population}: {where}")


def queued(workdir: pathlib.Path, launcher: str = "") -> dict[str, Queued]:
    """What the schedulers that this workdir knows, and `launcher`, have for its rows."""
    found: dict[str, Queued] = {}
    for tasks in _queued_by(workdir, launcher).values():
        found |= tasks
    return found


def _queued_by(workdir: pathlib.Path, launcher: str = "") -> dict[str, dict[str, Queued]]:
    used = {entry.get("launcher") for entry in records(workdir)} | {launcher}
    found = {}
    if "slurm" in used:
        found["slurm"] = slurm.queue(workdir)
    if "gke" in used:
        found["gke"] = gke.queue(workdir, _namespace(workdir))
    return found


def _namespace(workdir: pathlib.Path) -> str:
    own = [entry for entry in records(workdir) if entry.get("launcher") == "gke"]
    return _options(own[-1])["namespace"] if own else "default"


def _by_options(workdir: pathlib.Path, rows: Sequence[Row]) -> list[tuple[dict, list[Row]]]:
    """Rows that were last submitted together, and with which options."""
    entries = records(workdir)
    groups: dict[int, list[Row]] = {}
    for row in rows:
        own = [i for i, entry in enumerate(entries) if row.population in entry["populations"]]
        if not own:
            raise UserError(f"population {row.population}: no launcher's yet; submit it with one")
        groups.setdefault(own[-1], []).append(row)
    return [(_options(entries[i]), own_rows) for i, own_rows in groups.items()]


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Of a submission, as the books have them; anybody may have changed those.

    Raises:
      UserError: one is missing, or is none.
    """
    options = entry["options"]
    needed = {f.name: f.type for f in dataclasses.fields(_KINDS.get(entry["launcher"], Job))}
    wanted = {f.name: f.type for f in dataclasses.fields(Job) if f.name in options} | needed
    for name, kind in wanted.items():
        if not isinstance(options.get(name), _TYPES.get(str(kind), str)):
            raise UserError(
                f"{JOBS}: the record of {', '.join(entry['populations'])[:80]} has no {name} that"
                " is one; submit them with a launcher"
            )
    return options | {"launcher": entry["launcher"]}


def _submit(args: argparse.Namespace, plan: Plan, rows: Sequence[Row]) -> int:
    names = unfinished(rows)
    taken = sum(row.is_taken for row in rows)
    said = f"{args.workdir}: {counted(len(names), 'row')} to submit, {taken} running or waiting"
    if args.dry_run:
        said = f"{table(rows)}\n{said}"
    if not names:
        print(said)
        return 0
    populations = [plan.population(name) for name in names]
    job = _job(args, names, _experiment(args, populations))
    check_devices(job, populations)
    text = _rendered(args, job)
    print(said, file=sys.stderr if args.dry_run else sys.stdout, flush=True)
    if args.dry_run:
        print(text, end="")
        return 0
    check_disk(args.workdir, populations)
    (books_folder(args.workdir) / "logs").mkdir(parents=True, exist_ok=True)
    forget_stop(args.workdir)
    options = {k: v for k, v in vars(args).items() if k not in ("run", "workdir", "dry_run")}
    entry: dict[str, Any] = {"launcher": args.launcher, "populations": names, "options": options}
    if args.launcher == "local":
        record(args.workdir, entry | local.identity())
        return local.Pool(job, local.device_sets(args.workers)).run()
    number = len(records(args.workdir))
    ending = "sh" if args.launcher == "slurm" else "yaml"
    script = books_folder(args.workdir) / f"{args.launcher}-{number:03d}.{ending}"
    script.write_text(text)
    if args.launcher == "slurm":
        entry["job"] = slurm.submit(script)
    else:  # a JobSet that has ended keeps its name until it is deleted
        gke.remove([gke.jobset_name(args.workdir, name) for name in names], args.namespace)
        entry["job"] = gke.submit(script)
    record(args.workdir, entry | {"script": script.name})
    print(f"submitted {', '.join(names)}: {entry['job']} ({script})")
    return 0


def _rendered(args: argparse.Namespace, job: Job) -> str:
    if args.launcher == "slurm":
        return slurm.render(job, slurm.SlurmOptions(**_pick(slurm.SlurmOptions, args)))
    if args.launcher == "gke":
        return gke.manifest(gke.render(job, gke.GkeOptions(**_pick(gke.GkeOptions, args))))
    return local.describe(job, local.device_sets(args.workers))


def _experiment(args: argparse.Namespace, populations: Sequence[PlannedPopulation]) -> str:
    """The experiment, where workers need it: its settings name functions of the user's files.

    Raises:
      UserError: they do, and it was not given.
    """
    settings = [s for p in populations for s in flatten(p.config).items()]
    texts = [v for name, v in settings if name in SETTINGS and SETTINGS[name].own_file]
    own = next((p for text in texts for p in values_of(text) if is_own(p) or is_own_file(p)), "")
    if not own:
        return ""
    if args.config is None:
        raise UserError(f"{own.partition('@')[0]}: is of an experiment; give it, --config=FILE")
    file, colon, argument = args.config.partition(":")
    return f"{pathlib.Path(file).absolute()}{colon}{argument}"


def _job(args: argparse.Namespace, names: Sequence[str], experiment: str) -> Job:
    options = _pick(Job, args) | {"populations": tuple(names), "experiment": experiment}
    if args.launcher == "gke" and args.topology:
        options["nodes"] = args.slices * gke.slice_hosts(args.topology, args.devices_per_node)
        options["platform"] = "tpu"
    elif args.launcher == "gke" or options.get("devices_per_node"):
        options["platform"] = "gpu"
    return Job(**options)


def _pick(kind: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The command line's part of a dataclass."""
    values = vars(args)
    return {f.name: values[f.name] for f in dataclasses.fields(kind) if f.name in values}


def _plan(args: argparse.Namespace, overrides: Sequence[str], workdir: pathlib.Path) -> None:
    """Plans in a process of its own: that needs JAX, to count memory.

    Raises:
      UserError: with what that process says.
    """
    target = [f"--target={args.target}"] if args.target else []
    if args.config is None:
        if given := [*target, *overrides]:
            raise UserError(f"{given[0]}: changes a plan; give --config=FILE with it")
        return
    if args.launcher == "gke":
        gke.check_target(args)
    command = [sys.executable, "-m", "grokjax", "sweep", "--plan-only", f"--config={args.config}"]
    environment = single_process(os.environ)
    if args.launcher != "local":  # a login node's accelerator, if any, is not the job's
        environment["JAX_PLATFORMS"] = "cpu"
    planning = subprocess.Popen(
        [*command, f"--workdir={workdir}", *target, *overrides],
        env=environment,
        stdout=subprocess.PIPE if args.dry_run else None,
        stderr=subprocess.STDOUT if args.dry_run else subprocess.PIPE,
        text=True,
    )
    said = [""]
    with planning, ended_with_us(planning):
        for line in planning.stdout or planning.stderr or ():
            said.append(line.strip())
            # A dry run prints the script, and the rows, itself; of the plan only how far it is.
            if args.dry_run and re.fullmatch(HOW_FAR, said[-1]):
                print(said[-1], file=sys.stderr, flush=True)
    if planning.returncode:
        errors = [line for line in said if line.startswith(_ERROR)] or [
            line for line in said if line
        ]
        last = errors[-1] if errors else f"exit code {planning.returncode}"
        raise UserError(last.removeprefix(_ERROR))


def _plan_elsewhere(args: argparse.Namespace, overrides: Sequence[str]) -> Plan:
    """The plan that there would be."""
    with tempfile.TemporaryDirectory() as scratch:
        if (args.workdir / PLAN).exists():
            shutil.copy(args.workdir / PLAN, scratch)
        _plan(args, overrides, pathlib.Path(scratch))
        return require_plan(scratch if args.config else args.workdir)
