"""``python -m relax_exp`` is ``relax-exp``."""

import sys

from relax_exp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
