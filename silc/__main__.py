"""`python -m silc COMMAND ...` is the command `silc COMMAND ...`."""

import sys

from silc.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
