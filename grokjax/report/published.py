"""The paper's own curves, for figures of runs whose setting is the paper's."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

from ml_collections import ConfigDict

from grokjax.data.composition import COMPOSITION
from grokjax.model import RECURSIVE


def published_pretraining(config: ConfigDict) -> dict[str, Any] | None:
    """Curves by group, where graph and model are the paper's."""
    return _published(config, "pretrain")


def published_finetuning(config: ConfigDict) -> dict[str, Any] | None:
    """The same, where the new facts are the paper's too."""
    t = config.transfer
    theirs = (t.num_new_facts, t.num_kept, t.new_share, t.folder) == (2000, 8000, 0.0, "")
    return _published(config, "finetune") if theirs and not config.data.folder else None


def _published(config: ConfigDict, part: str) -> dict[str, Any] | None:
    d, m = config.data, config.model
    graph = (d.task, d.num_entities, d.num_relations, d.out_degree, d.phi)
    if (
        graph != (COMPOSITION.name, 2000, 200, 20, 18.0)
        or m.kind != RECURSIVE
        or m.hidden_size != 1536
    ):
        return None
    file = importlib.resources.files("grokjax.report") / "paper_curves.json"
    return json.loads(file.read_text())[part]
