"""``python -m relax_exp`` is ``relax-exp``."""

import sys

from relax_exp.cli.entry import run

if __name__ == "__main__":
    sys.exit(run())
