"""Errors that a user can mend: the message says what is wrong, what is allowed and what to type."""

from __future__ import annotations


class DataError(Exception):
    """Data that is missing or damaged; the message says where, what and what to do."""


class RunError(Exception):
    """A run that cannot start or go on; the message says why and what to do."""


class ReportError(Exception):
    """Something that whoever asked for the report can mend; the message is all there is to say."""


class ConfigError(Exception):
    """A configuration that cannot be run; the message says what is wrong, what is allowed and what to type."""


class OptionError(ValueError):
    """Options of an estimator that it does not have, or that do not go together; the message says what to type."""


class SettingError(RunError):
    """A setting found wrong only once torch, the data or the environment were there; the message says what to type."""
