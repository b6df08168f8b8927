"""Block the network in kernels and subprocesses: Python imports this file at start-up."""

import loopback


loopback.install()
