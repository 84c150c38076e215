"""`python -m lvc decode` and `python -m lvc info` (of the player alone: `lvc decode`)."""

import sys

from .decode import main

sys.exit(main())
