"""`lens.grokjax.plot()`, `effects.grokjax.plot()`: what an analysis returns plots itself."""

from __future__ import annotations

import xarray as xr

from grokjax.analysis import plots, tables
from grokjax.analysis.plots import Picture
from grokjax.errors import UserError


@xr.register_dataset_accessor("grokjax")
class Plotting:
    """Pictures of what `logit_lens`, `patch_effects` or `load_analysis` gave."""

    def __init__(self, data: xr.Dataset):
        self._data = data

    def plot(
        self,
        *,
        type: str | None = None,
        group: str | None = None,
        direction: str | None = None,
        blocks: bool = False,
    ) -> Picture:
        """A heat map of the last step: of a lens by probe type, of effects by group and direction.

        Args:
          type: probe type of a lens; OOD compositions, or the first ones there are, by default.
          group: of the pairs, the first by default.
          direction: of the patches, the first by default.
          blocks: what blocks compute, instead of the streams.

        Raises:
          UserError: these data are neither.
        """
        data = self._data
        for dimension in ("step", "run"):
            if dimension not in data.dims:
                data = data.expand_dims({dimension: [0]})
        data = data.isel(step=[-1])
        labels = data.regime.to_numpy() if "regime" in data.coords else ["one run"]
        if "top1" in data:
            table = tables.lens_by_group(data, list(labels))
            kinds = list(table.type[table.num_runs > 0])
            preferred = "test_inferred_ood" if "test_inferred_ood" in kinds else kinds[0]
            return plots.lens_figure(table, type or preferred)
        if "effect" in data:
            table = tables.patching_by_group(data, list(labels))
            group, direction = group or table.group.iloc[0], direction or table.direction.iloc[0]
            return plots.patching_figure(table, group, direction, blocks=blocks)
        raise UserError("plot: this is neither a lens nor effects of patches")
