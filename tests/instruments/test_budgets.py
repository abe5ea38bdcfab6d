"""What programs may cost on accelerators. `targets` compiles some rows, `targets_full` all."""

import dataclasses

import pandas as pd
import pytest
from tiny import ROOT

from grokjax.arguments import parse
from grokjax.base.errors import UserError
from grokjax.instruments import budgets
from grokjax.instruments.budgets import BUDGETS, Budget, page, problems, read_table
from grokjax.instruments.compile import versions
from grokjax.instruments.targets import machine
from grokjax.settings import load_experiment

COMMITTED = read_table()
ROW = {
    "flops": 1e9, "bytes_per_run": 1e8, "cycles_per_run": 1e5, "temporary_bytes": 1e9,
    "kernels": 100, "collective_bytes": 0, "num_collectives": 2, "unknown_loops": 0,
    "host_transfers": 0,
}  # fmt: skip


def test_rows_are_commands():
    assert len({b.name for b in BUDGETS}) == len(BUDGETS)
    for budget in BUDGETS:
        args, overrides = parse(None, budget.command.split()[1:])
        assert machine(args.target)[1] >= (args.devices or 1)
        config = load_experiment(args.config, overrides)
        assert config == load_experiment(budget.config, dict(budget.settings))


def test_the_committed_table_has_every_row_and_keeps_within_it():
    assert list(COMMITTED) == [b.name for b in BUDGETS]
    for budget in BUDGETS:
        row = COMMITTED[budget.name]
        assert row["command"] == budget.command and row["jax"]
        assert not problems(budget, row), budget.name


def test_the_page_has_the_committed_table():
    """When it fails: python -m grokjax.instruments.budgets, into docs/accelerators.md"""
    text = (ROOT / "docs" / "accelerators.md").read_text()
    _, _, rest = text.partition("<!-- counts: python -m grokjax.instruments.budgets -->\n")
    assert rest.partition("\n<!-- end -->")[0] == page(COMMITTED.values())


@pytest.mark.parametrize("name", ["bytes_per_run", "cycles_per_run", "kernels"])
def test_a_doubled_count_is_told(name):
    before = ROW | versions()
    assert not problems(Budget("x", "", "here", 1), ROW, before)
    (said,) = problems(Budget("x", "", "here", 1), ROW | {name: 2 * ROW[name]}, before)
    assert said.startswith(name)
    # Another compiler counts otherwise: then only what a row must not exceed.
    other = before | {"jax": "0.0"}
    assert not problems(Budget("x", "", "here", 1), ROW | {name: 2 * ROW[name]}, other)


@pytest.mark.parametrize("name", ["num_collectives", "unknown_loops", "host_transfers"])
def test_one_more_is_told(name):
    assert problems(Budget("x", "", "here", 1), ROW | {name: ROW[name] + 1}, ROW | versions())
    assert problems(Budget("x", "", "here", 1, most={name: ROW[name]}), ROW | {name: ROW[name] + 1})


def test_the_command_keeps_what_it_has_counted(tmp_path, capsys):
    names = [b.name for b in BUDGETS[:2]]

    def counted(budget):
        if budget.name == names[1]:
            raise UserError("training: does not fit")
        return {"name": budget.name} | ROW | {"bytes_per_run": 9e9}

    assert not budgets.main(tmp_path, names, counted)
    said = capsys.readouterr().out
    assert f"{names[0]}: bytes_per_run 9e+09, must be at most" in said
    assert f"{names[1]}: training: does not fit" in said
    assert pd.read_csv(tmp_path / "counts.csv").name.tolist() == names[:1]
    with pytest.raises(UserError, match="--only=no such: no such row"):
        budgets.main(None, ["no such"])


def holds(budget):
    wrong = problems(budget, budgets.measure(budget), COMMITTED[budget.name])
    assert not wrong, "; ".join(wrong)


@pytest.mark.targets
@pytest.mark.parametrize("budget", [b for b in BUDGETS if b.short], ids=lambda b: b.name)
def test_what_compiles_quickly_is_within_its_budget(budget):
    holds(budget)


@pytest.mark.targets_full
@pytest.mark.parametrize("budget", [b for b in BUDGETS if not b.short], ids=lambda b: b.name)
def test_all_else_is_within_its_budget(budget):
    holds(budget)


@pytest.mark.targets
def test_a_doubled_program_breaks_its_budget():
    """Twice the runs, under the name of the first row: the comparison sees it."""
    short = next(b for b in BUDGETS if b.short)
    twice = dataclasses.replace(short, num_runs=2 * short.num_runs)
    assert problems(short, budgets.measure(twice), COMMITTED[short.name])
