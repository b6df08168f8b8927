"""Python imports this at start when its folder is on PYTHONPATH: the kernels and sub-processes of the tests."""

import loopback


loopback.install()
