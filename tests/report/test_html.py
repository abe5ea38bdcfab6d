"""How a page shows tables: what stands below each heading."""

import math

import pandas as pd

from grokjax.report.html import around, count_of, interval, number, short, show, show_wide

TABLE = pd.DataFrame(
    {
        "group": ["a", "a", "b"],
        "variant": ["", "", ""],
        "asked": ["x", "y", "x"],
        "reached": [1, 2, 0],
        "num_runs": [2, 2, 3],
        "flops": [1.5e6, 2e6, math.nan],
        "flops_low": [1e6, math.nan, math.nan],
        "flops_high": [2e6, math.nan, math.nan],
        "p": [0.01234, 1.0, math.nan],
        "seconds": [1234.5, 0.123, math.nan],
    }
)


def test_a_heading_says_which_stored_columns_and_how():
    shown = show(
        TABLE,
        {
            "who": "group",
            "variant": "variant",
            "got there": count_of("reached", "num_runs"),
            "FLOPs": around("flops", ".1e"),
            "p": number("p", ".3f"),
            "took": short("seconds"),
            "minutes": short("seconds", 60),
        },
    )
    # A column that says nothing in any row is left out.
    assert list(shown) == ["who", "got there", "FLOPs", "p", "took", "minutes"]
    assert shown.iloc[0].tolist()[1:4] == ["1 of 2", "1.5e+06 [1.0e+06, 2.0e+06]", "0.012"]
    assert shown.iloc[1].tolist()[2:] == ["2.0e+06", "1.000", "0.12", "0.0021"]
    assert shown.iloc[2].tolist()[1:] == ["0 of 3", "-", "-", "-", "-"]
    assert shown.took[0] == "1,234" and shown.minutes[0] == "21"


def test_a_wide_table_keeps_its_order_and_its_gaps():
    wide = show_wide(TABLE[::-1], {"group": "group"}, "asked", interval("p", "p", "p"))
    assert wide.group.tolist() == ["b", "a"] and list(wide) == ["group", "x", "y"]
    assert wide.x.tolist() == ["-", "0.01 [0.01, 0.01]"] and wide.y[1] == "1.00 [1.00, 1.00]"
    assert pd.isna(wide.y[0])
    assert not len(show(TABLE[:0], {"group": "group"}))
