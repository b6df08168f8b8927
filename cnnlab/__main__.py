"""Run the command line with `python -m cnnlab`, or say that this Python is too old for it."""

import sys


if sys.version_info < (3, 11, 4):  # a checkout may be run without pip
    version = "{}.{}.{}".format(*sys.version_info[:3])
    sys.exit("cnnlab needs Python 3.11.4 or newer, and this is " + version)

from cnnlab.course.cli import main


sys.exit(main())
