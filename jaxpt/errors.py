"""What can go wrong in a way that one sentence explains."""

import os


class InputError(ValueError):
    """Bad input from the user: one sentence with the value, what was expected, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


class RunError(RuntimeError):
    """A run that cannot go on, through no fault of its input: one sentence, with what is kept.

    The command line prints it without a traceback and exits with status 1.
    """


def require(condition: bool, message: str) -> None:
    """Raises ``InputError(message)`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def shown(path: str | os.PathLike) -> str:
    """A path as one line of text that every terminal and file takes.

    A file name may hold line ends and bytes that are no UTF-8; both are escaped.
    """
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
