"""`python -m runninghub_async`."""

import sys

from ._cli import main

sys.exit(main())
