"""What can go wrong in a way that one sentence explains."""


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
