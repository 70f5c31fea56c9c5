"""`python -m vitalseal` is the same program as `vitalseal`."""

import sys

from vitalseal.cli import main

sys.exit(main())
