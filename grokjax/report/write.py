"""`grokjax report`: the page of a workdir, of whatever kind it is."""

from __future__ import annotations

import os
import pathlib

from grokjax.base.errors import UserError
from grokjax.report import training_page, transfer_page
from grokjax.report.stored_analyses import stored_analyses
from grokjax.report.style import LOOKS
from grokjax.report.training_runs import read_training
from grokjax.report.transfer_runs import read_transfers
from grokjax.results import StoredRuns


def write_report(
    found: StoredRuns, out: str | os.PathLike | None = None, figures: str = "screen"
) -> pathlib.Path:
    """Writes `report.html`, its pictures as PNG with their data, and its tables as CSV.

    Args:
      found: what `grokjax.load` gave, trained in full or in part.
      out: folder, the workdir by default.
      figures: `paper` also writes `figures/paper`, PDF and PNG as wide as a paper's column or page.

    Returns:
      The page's path.

    Raises:
      UserError: nothing has been trained.
    """
    if figures not in LOOKS:
        raise UserError(f"--figures={figures}: give {' or '.join(LOOKS)}")
    if finetuning := found.finetuning:
        page = transfer_page.page(read_transfers(finetuning))
    else:
        page = training_page.page(read_training(found), stored_analyses(found))
    if said := found.gaps():
        print(f"{said}; the report has what is left")
        page = page._replace(lead=f"{page.lead} What is shown is not whole: {said}.")
    return page.save(found.workdir if out is None else out, figures)
