"""Makes `python -m datasparse` the same as the `datasparse` command."""

import sys

from datasparse.cli import main

sys.exit(main())
