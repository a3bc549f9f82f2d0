"""``python -m corgi`` is the command line."""

import sys

from corgi.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
