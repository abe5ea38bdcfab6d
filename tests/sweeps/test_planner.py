"""Rows that differ in their length alone, asked for at once or one after the other."""

import pytest
from tiny import fast

from grokjax.base.errors import UserError
from grokjax.sweeps.plan import Plan
from grokjax.sweeps.planner import extend_plan


def of_steps(*steps, seed=0):
    return [{"seeds.init": seed, "train.num_steps": n} for n in steps]


def test_rows_that_differ_in_their_length_alone_are_refused():
    """Else one of them were trained, and nobody told which."""
    rows = [{"seeds.init": 7}, *of_steps(20, 40)]
    with pytest.raises(UserError, match=r"rows 1 and 2: differ in train.num_steps alone \(20 and"):
        extend_plan(Plan(), fast(), rows)
    with pytest.raises(UserError, match=r"rows 0 and 1: .*\(20 and 60\)"):  # 20 is the config's
        extend_plan(Plan(), fast(), [{}, {"train.num_steps": 60}])


def test_a_row_asks_for_more_steps_by_itself():
    plan = extend_plan(Plan(), fast(), of_steps(20) + of_steps(40, seed=1))
    assert [p.config.train.num_steps for p in plan.populations] == [20, 40]
    longer = extend_plan(plan, fast(), of_steps(80))
    assert [p.config.train.num_steps for p in longer.populations] == [80, 40]
    assert extend_plan(longer, fast(), of_steps(30) + of_steps(40, seed=1)) == longer
