"""Errors that one sentence explains to the user."""

import os


class InputError(ValueError):
    """Bad input from the user. The message names the value, what was expected, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


class RunError(RuntimeError):
    """A run that cannot continue although its input is valid. The message says what was saved.

    The command line prints it without a traceback and exits with status 1.
    """


def require(condition: bool, message: str) -> None:
    """Raises ``InputError(message)`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def shown(path: str | os.PathLike) -> str:
    """A path as one line of printable text.

    Line breaks and bytes that are not UTF-8, which a file name may contain, are escaped.
    """
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
