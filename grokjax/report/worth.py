"""What answering costs, whether it is worth it, and which comparisons hold, in sentences."""

from __future__ import annotations

import math

import pandas as pd

from grokjax.base.names import ALPHA, ORDER_LEVELS, STEPS_TO_ANSWER
from grokjax.report.html import Finding
from grokjax.report.sentences import MOST_CLAUSES, bracketed, shortened
from grokjax.report.training_comparisons import AT_LEAST, AT_MOST, DECLARED, NO_BOUND
from grokjax.statistics.permutation import holm

_AT = ORDER_LEVELS[0]
_LEVEL = f"{_AT:g}"


def worth_finding(costs: pd.DataFrame, comparisons: pd.DataFrame) -> list[Finding]:
    """The answer to the title's question, or why there is none."""
    own = _flops(costs)
    return [Finding(f"Worth its compute? {_worth(own, comparisons)}.", "costs")] if len(own) else []


def _worth(own: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    first, others = str(own.group.iloc[0]), own.iloc[1:]
    until = f"until accuracy {_LEVEL}"
    if not (own.reached > 0).any():
        return f"That cannot be said: no run reached accuracy {_LEVEL}"
    if not len(others):
        return "That cannot be said: there is one group, and nothing to set its cost against"
    words = others.ratio_bound.fillna("")
    lower = others[(others.ratio < 1) & words.isin(("", AT_MOST))]
    if len(lower):
        best = lower.loc[lower.ratio.idxmin()]
        return f"{_times(best, first)} {until}: the cheaper way{_shown(best, first, comparisons)}"
    if ((others.ratio >= 1) & words.isin(("", AT_LEAST))).all():
        best = others.loc[others.ratio.idxmin()]
        shown = _shown(best, first, comparisons)
        return f"{bracketed(first)} is the cheapest way: {_times(best, first)} {until}{shown}"
    return (
        f"That cannot be said: runs ended before accuracy {_LEVEL}, and their costs are bounds that"
        " leave open which group is cheaper"
    )


def _times(row: pd.Series, first: str) -> str:
    return f"{bracketed(str(row.group))} takes {_bounded(row)} times the FLOP of {bracketed(first)}"


def _bounded(row: pd.Series) -> str:
    """A ratio after the word that makes it a bound."""
    word = row.ratio_bound if isinstance(row.ratio_bound, str) else ""
    return f"{word} {row.ratio:.2g}".strip()


def _shown(row: pd.Series, first: str, comparisons: pd.DataFrame) -> str:
    """Whether the test of the same two groups' times holds."""
    own = comparisons[
        (comparisons.quantity == STEPS_TO_ANSWER) & (comparisons.level == _AT)
        & (comparisons.group_a == first) & (comparisons.group_b == row.group)
        & comparisons.p_holm.notna()
    ]  # fmt: skip
    if not len(own):
        return ", but no test shows it"
    p = own.p_holm.iloc[0]
    return f" ({'p' if p < ALPHA else 'not shown: p'} = {p:.2g} after Holm's correction)"


def cost_finding(costs: pd.DataFrame) -> list[Finding]:
    """What groups paid until they answered; of many, the cheapest and the dearest on average."""
    own = _flops(costs)
    if not len(own):
        return []
    reached = own[own.reached > 0]
    if not len(reached):
        text = f"What answering costs: no run's accuracy reached {_LEVEL}, so no cost is known."
        return [Finding(text, "costs")]
    first = str(own.group.iloc[0])
    if len(own) > MOST_CLAUSES:
        mean = reached.restricted_mean
        parts = [
            f"{_counted(own.loc[i])}, {own.restricted_mean[i]:.1e}{_ratio(own.loc[i], first)}"
            for i in dict.fromkeys((mean.idxmin(), mean.idxmax()))
        ]
        never = len(own) - len(reached)
        parts += [f"no run of {never} group{'s' * (never > 1)} got there"] if never else []
        what = (
            f"FLOP until accuracy {_LEVEL}, restricted mean, cheapest and dearest group of those"
            " that got there"
        )
    else:
        parts = [_cost(row, first) for _, row in own.iterrows()]
        what = f"FLOP until accuracy {_LEVEL}, of the runs that got there"
    return [Finding(f"{what}: {'; '.join(parts)}.", "costs")]


def _flops(costs: pd.DataFrame) -> pd.DataFrame:
    return costs[(costs.unit == "FLOP") & (costs.level == _AT)].reset_index(drop=True)


def _counted(row: pd.Series) -> str:
    return f"{bracketed(str(row.group))} {row.reached:.0f} of {row.n:.0f}"


def _cost(row: pd.Series, first: str) -> str:
    text = _counted(row)
    if row.reached:
        text += f", {row.earliest:.1e}"
        text += f" to {row.latest:.1e}" if row.latest > row.earliest else ""
    return text + _ratio(row, first)


def _ratio(row: pd.Series, first: str) -> str:
    if str(row.group) == first or not math.isfinite(row.ratio) or row.ratio_bound == NO_BOUND:
        return ""
    return f" ({_bounded(row)} times the mean of {bracketed(first)})"


def comparison_finding(table: pd.DataFrame) -> list[Finding]:
    """How many declared comparisons hold after Holm's correction, and how many never could."""
    known = table[table.p.notna()]
    family = known[known.family == DECLARED]
    if not len(family):
        return []
    shown = family[family.p_holm < ALPHA]
    # At best every p of the family is its smallest: Holm's correction falls with each of them.
    at_best = holm(family.p_smallest)
    out_of_reach = at_best >= ALPHA
    what = " and ".join(dict.fromkeys(family.quantity))
    text = (
        f"Of the {len(family)} declared comparisons ({what}), {len(shown)} hold after Holm's"
        " correction"
    )
    if len(shown):
        named = [
            f"{row.quantity}{'' if math.isnan(row.level) else f' {row.level:g}'},"
            f" {bracketed(row.group_a)} and {bracketed(row.group_b)}, p = {row.p_holm:.2g}"
            for row in shown.itertuples()
        ]
        text += f": {shortened(named)}"
    if out_of_reach.any():
        smallest, left = _span(family.p_smallest[out_of_reach]), at_best[out_of_reach].min()
        who = "none could" if out_of_reach.all() else f"{out_of_reach.sum()} could not"
        text += (
            f"; {who} have: of the smallest p that their runs can give ({smallest}) Holm's"
            f" correction leaves {left:.2g}{' or more' if left < 1 else ''}"
        )
    if len(others := known[known.family != DECLARED]):
        held = int((others.p_holm < ALPHA).sum())
        text += f". Of {len(others)} others, corrected by themselves, {held}"
    return [Finding(text + ".", "comparisons")]


def _span(values: pd.Series) -> str:
    low, high = f"{values.min():.2g}", f"{values.max():.2g}"
    return low if low == high else f"{low} to {high}"
