"""``python -m captum_kmex``: the command line."""

import sys

from captum_kmex.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
