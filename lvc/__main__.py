"""`python -m lvc decode` and `python -m lvc info`."""

import sys

from lvc.decode import main

sys.exit(main())
