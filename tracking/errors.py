"""The one exception of the tracking room; the command line prints its message without a traceback."""


class TrackingError(RuntimeError):
    """The tracking server, or what it holds, cannot serve what was asked; the message says what was found and what to do."""


class Superseded(TrackingError):
    """Another process has taken a run over: this one has to stop writing it."""
