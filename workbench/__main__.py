"""`python -m workbench`: the `workbench` command where no folder of scripts is on the path."""

import sys

from workbench.cli import main

if __name__ == "__main__":  # processes that it starts import it too
    sys.exit(main())
