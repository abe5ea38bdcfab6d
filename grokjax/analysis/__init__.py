"""What stored models do inside: pure functions of (params, tokens), vmapped over what there is."""

import importlib
from typing import Any

import xarray as xr

from grokjax.analysis.analyze import AnalysisConfig, analyze
from grokjax.analysis.effects import patch_effects
from grokjax.analysis.logit_lens import logit_lens
from grokjax.analysis.pairs import Pairs, all_compositions, draw_pairs, query_pool
from grokjax.analysis.path_identity import path_identity
from grokjax.analysis.questions import patch_question, question, questions_table, read_question
from grokjax.analysis.sites import Site, all_sites
from grokjax.analysis.store import Analysis, analysis_folder, load_analysis

__all__ = [
    "Analysis",
    "AnalysisConfig",
    "Pairs",
    "Site",
    "all_compositions",
    "all_sites",
    "analysis_folder",
    "analyze",
    "draw_pairs",
    "load_analysis",
    "logit_lens",
    "patch_effects",
    "patch_question",
    "path_identity",
    "query_pool",
    "question",
    "questions_table",
    "read_question",
]


@xr.register_dataset_accessor("grokjax")
def _plotting(data: xr.Dataset) -> Any:
    """`data.grokjax.plot()`: the report draws, a room above this one; found when asked for."""
    return importlib.import_module("grokjax.report.accessor").Plotting(data)
