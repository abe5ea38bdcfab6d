"""When a run may leave its population early: it has grokked, and a margin has passed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from grokjax.base.names import CONSECUTIVE
from grokjax.data.composition import COMPOSITION


class Stopping:
    """Each run's end: `train.stop_margin` steps after T_grok at `train.stop_at`.

    The event is known two evaluations later, and the margin is longer than that, so a run ends at
    the same step whether its training was interrupted or not.

    Args:
      config: of the population; `train.stop_at` 0 lets nobody leave.
      num_runs: R.
      accuracy: the column that grokking is told by.
    """

    def __init__(self, config: ConfigDict, num_runs: int, accuracy: str = COMPOSITION.accuracy):
        self._accuracy = accuracy
        self._at, self._margin = config.train.stop_at, config.train.stop_margin
        # Of each run the steps of its evaluations at the threshold, running.
        self._above: list[list[int]] = [[] for _ in range(num_runs)]
        self._ends = np.full(num_runs, math.inf)

    def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Learns of evaluations, in the order of their steps."""
        for row in rows:
            run_id = int(row["run_id"])
            if not self._at or math.isfinite(self._ends[run_id]):
                continue
            is_above = float(row.get(self._accuracy, math.nan)) >= self._at
            self._above[run_id] = [*self._above[run_id], int(row["step"])] if is_above else []
            if len(self._above[run_id]) == CONSECUTIVE:
                self._ends[run_id] = self._above[run_id][0] + self._margin

    def ended(self, step: int) -> Bool[np.ndarray, " R"]:
        """Which runs have reached their end at `step`."""
        return self._ends <= step
