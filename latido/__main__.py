"""`python -m latido` is the `latido` command."""

import sys

from latido.cli import main

sys.exit(main())
