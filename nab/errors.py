"""Errors that the user can mend: each message says what was wrong, where, and what to do."""

from __future__ import annotations


class NabError(ValueError):
    """Base of all errors for bad input. The command line prints the message as one line and ends with exit code 2."""


class ConfigError(NabError):
    """A hyper-parameter, name or profile is not valid."""


class DataError(NabError):
    """A dataset, or a file of it, is missing, damaged or not what it should be."""


class ResultError(NabError):
    """A stored result cannot be read or written."""
