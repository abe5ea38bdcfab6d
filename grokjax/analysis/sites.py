"""Where a network can be looked into and patched: a component, a place in time, a position."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from grokjax.base.errors import UserError
from grokjax.model import BLOCK_COMPONENTS, DECODER, ModelConfig
from grokjax.settings.own_functions import is_own_file

STREAMS = ("z_H", "z_L", "embedding")


@dataclasses.dataclass(frozen=True)
class Site:
    """What one patch replaces.

    component: a stream (STREAMS) or what a block computes (BLOCK_COMPONENTS).
    place: the stage after which it holds, or the block application.
    position: by name, see `position_names`.
    head: of "heads"; else -1.
    """

    component: str
    place: str
    position: str
    head: int = -1


def position_names(config: ModelConfig) -> tuple[str, ...]:
    """Of all S positions: registers, then the tokens."""
    registers = tuple(f"register{i}" for i in range(config.num_registers))
    return registers + config.token_names[: config.seq_len]


def components(config: ModelConfig) -> tuple[str, ...]:
    """What a model's patches can replace."""
    streams = ("z_H",) if config.is_stack else STREAMS
    if is_own_file(config.kind):
        return streams
    has_heads = config.kind == DECODER or config.mixer == "attention"
    return streams + tuple(c for c in BLOCK_COMPONENTS if c != "heads" or has_heads)


def places(config: ModelConfig, component: str) -> tuple[str, ...]:
    """Stages of a stream, block applications of the rest."""
    return config.evaluation_blocks if component in BLOCK_COMPONENTS else config.evaluation_stages


def all_sites(config: ModelConfig, only: Sequence[str] | None = None) -> list[Site]:
    """Every component, place and position (and head).

    What follows the question in a decoder's input is the answer, so its sites are the question's.

    Args:
      config: of the model.
      only: components; all when None, but the recursive model's heads, which its mixer sums.

    Raises:
      UserError: the model has no such component.
    """
    available = components(config)
    if only is None:
        only = [c for c in available if c != "heads" or config.kind == DECODER]
    unknown = [c for c in only if c not in available]
    if unknown:
        raise UserError(f"sites: no component {unknown[0]!a}; this model has {available}")
    names = position_names(config)
    if not config.predicts_input:
        names = names[: names.index("answer")]
    return [
        Site(component, place, position, head)
        for component in only
        for place in places(config, component)
        for position in names
        for head in (range(config.num_heads) if component == "heads" else (-1,))
    ]


def share_shape(config: ModelConfig, component: str) -> tuple[int, ...]:
    """Of a `Patch`'s share: places, positions, and heads where there are any."""
    heads = (config.num_heads,) if component == "heads" else ()
    return (len(places(config, component)), config.length, *heads)


def single_shares(
    config: ModelConfig, sites: Sequence[Site]
) -> dict[str, Float[np.ndarray, "F ..."]]:
    """Shares of F patches, each of one site, for the components that occur."""
    names = position_names(config)
    shares = {}
    for component in dict.fromkeys(site.component for site in sites):
        shares[component] = np.zeros((len(sites), *share_shape(config, component)), np.float32)
    for f, site in enumerate(sites):
        place = places(config, site.component).index(site.place)
        where = (f, place, names.index(site.position))
        shares[site.component][where + ((site.head,) if site.head >= 0 else ())] = 1.0
    return shares


def site_table(sites: Sequence[Site]) -> pd.DataFrame:
    """A row per site: component, place, position, head."""
    return pd.DataFrame([dataclasses.astuple(s) for s in sites], columns=_COLUMNS)


_COLUMNS = [field.name for field in dataclasses.fields(Site)]
