"""`python -m beit.cli`, for torchrun."""

import sys

from beit.cli import main

sys.exit(main())
