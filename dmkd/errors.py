"""The exceptions that dmkd raises for a user's mistake: one small tree, so that the command line can print one clear line.

A message says what was found, what was wanted, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 24
"""Names that a message lists where none is near."""


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


class LoaderDied(TrainingError):
    """A data-loading process ended without a word: killed, or out of memory. The same work may succeed another time."""


class SweepError(DmkdError, RuntimeError):
    """A sweep was asked for something that cannot work."""


class TrackingError(DmkdError, RuntimeError):
    """The tracking server or what it holds cannot serve what was asked of it."""


def nearest(key: str, known: Iterable[str], path: str = "") -> str:
    """The end of an error message about an unknown name: the known ones nearest to it, or else what is known.

    `path`: what has to be typed before a name.
    """
    names = sorted(set(known))
    close = _close(key, names)
    if close:
        return f"did you mean {' or '.join(repr(path + name) for name in close)}?"
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return f"known: {', '.join(names[:SHOWN])}{more}"


def _close(key: str, names: list[str]) -> list[str]:
    """Names that differ in case, hyphens or initials alone; are spelt alike; have all its words; hold it; are the likeliest."""
    plain = {name: name.lower().replace("-", "_") for name in names}
    typed = key.lower().replace("-", "_")
    alike = {cutoff: difflib.get_close_matches(typed, list(plain.values()), 1, cutoff) for cutoff in (0.75, 0.5)}
    words = set(typed.split("_"))
    candidates = (
        [name for name in names if typed in (plain[name], _initials(plain[name])) or _initials(typed) == plain[name]],
        [name for name in names if plain[name] in alike[0.75]],
        sorted((name for name in names if words <= set(plain[name].split("_"))), key=len),
        sorted((name for name in names if len(typed) > 2 and typed in plain[name]), key=len),
        [name for name in names if plain[name] in alike[0.5]],
    )
    return next((found[:3] for found in candidates if found), [])


def _initials(name: str) -> str:
    words = [word for word in name.split("_") if word]
    return "".join(word[0] for word in words) if len(words) > 1 else name
