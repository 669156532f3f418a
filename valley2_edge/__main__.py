"""`python -m valley2_edge`."""

import sys

from valley2_edge.cli.main import main

sys.exit(main())
