"""`python -m cnnlab` does what `cnnlab` does, and says so where Python is too old to read the rest."""

import sys


if sys.version_info < (3, 11):  # noqa: UP036 - pip checks it, a checkout that is called in place does not
    sys.exit("cnnlab needs Python 3.11 or newer, and this is {}.{}".format(*sys.version_info[:2]))

from cnnlab.course.cli import main


sys.exit(main())
