"""`python -m cnnlab` does what `cnnlab` does."""

import sys

from cnnlab.cli import main


sys.exit(main())
