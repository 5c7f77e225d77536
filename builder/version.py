"""The version of this package, for every module that needs it."""

__version__ = "0.1.0"
