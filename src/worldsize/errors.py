"""Errors meant for the person at the terminal; anything else that escapes is our own mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend. The message says what was given, what is allowed and what to type instead.

    The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class RunError(UserError):
    """A run that began and could not finish (a rank died, the loss was not finite, the disk was full)."""

    exit_code = 1


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word closest to `given`, or None when none is close."""
    matches = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(what: str, given: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a word that is not among the allowed ones, with the nearest and the whole list."""
    choices = sorted(allowed)
    close = nearest(given, choices)
    hint = f" Did you mean {close!r}?" if close else ""
    return UserError(f"unknown {what} {given!r}.{hint} Allowed: {', '.join(choices)}.")
