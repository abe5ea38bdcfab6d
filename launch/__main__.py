"""`python -m launch`: a sweep on Slurm, on Kubernetes or on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grokjax.runtime.interrupt import ending_in_order


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; signals end it in order before the rest is imported, which takes a second.

    Returns:
      0; 1 if rows that were trained here failed; 2 after one line about bad input; 75 after an
      interruption that the same command resumes.
    """
    with ending_in_order("launch", for_good=argv is None):
        from launch.commands import run

        return run(argv)


if __name__ == "__main__":
    sys.exit(main())
