"""The report's statistics are as often wrong as they say: simulated groups whose truth is known."""

import pandas as pd
import pytest
import simulated_groups
from tiny import ROOT

TABLE = ROOT / "experiments" / "results" / "statistics" / "error_rates.csv"


def check(table):
    """No rate is surely outside what was declared of it."""
    wrong = table[(table.high < table.at_least) | (table.low > table.at_most)]
    assert not len(wrong), wrong.to_string()


def test_the_committed_table_keeps_what_was_declared():
    table = pd.read_csv(TABLE)
    asked = [(question, truth) for question, truth, *_ in simulated_groups.questions()]
    assert list(zip(table.question, table.truth, strict=True)) == asked
    assert (table.trials >= 300).all()  # where runs are alike, no interval is given
    check(table)


def test_a_few_trials_agree_with_it():
    table = simulated_groups.error_rates(20, seed=1)
    check(table)
    committed = pd.read_csv(TABLE)
    assert ((table.low <= committed.rate + 0.1) & (table.high >= committed.rate - 0.1)).all()


@pytest.mark.slow
def test_many_trials_keep_what_was_declared():
    check(simulated_groups.error_rates(1000, seed=2))
