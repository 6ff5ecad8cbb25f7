"""`python -m tensorlogic` is the command `tensorlogic`."""

import sys

from tensorlogic.lang.cli import main

sys.exit(main())
