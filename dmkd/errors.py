"""The exceptions that dmkd raises for a user's mistake: one small tree, so that the command line can print one clear line.

A message says what was found, what was wanted, and what to do next.
"""


class DmkdError(Exception):
    """Base of every error that a user can mend; the command line prints its message without a traceback."""


class ConfigError(DmkdError, ValueError):
    """A configuration key is unknown, has the wrong type, or lies outside its limits."""


class DataError(DmkdError, ValueError):
    """A data set is missing, broken, or cannot serve what was asked of it."""


class WeightsError(DmkdError, RuntimeError):
    """Weights are missing, cannot be downloaded, or do not fit the network."""


class ShapeError(DmkdError, ValueError):
    """Two networks, or a network and a method, do not fit together; the message has the numbers."""


class CheckpointError(DmkdError, RuntimeError):
    """A checkpoint is missing, truncated, altered, or not one of ours."""


class TrainingError(DmkdError, RuntimeError):
    """Training cannot go on (a loss term became NaN or infinite)."""


class SweepError(DmkdError, RuntimeError):
    """A sweep was asked for something that cannot work."""


class TrackingError(DmkdError, RuntimeError):
    """The tracking server or what it holds cannot serve what was asked of it."""
