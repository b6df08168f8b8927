"""The version of the package, readable before anything else is imported."""

__version__ = "0.2.0"
