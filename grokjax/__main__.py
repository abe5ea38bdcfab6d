"""`python -m grokjax`, and the command `grokjax`."""

import sys

from grokjax.runtime.interrupt import ending_in_order


def main() -> int:
    """Runs one subcommand; signals end it in order before the rest is imported."""
    with ending_in_order("grokjax", for_good=True):
        from grokjax.cli import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
