"""The one exception that means "what you gave us cannot work"."""


class InputError(ValueError):
    """Bad input from the user: one sentence with the value, what was expected, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


def require(condition: bool, message: str) -> None:
    """Raises ``InputError(message)`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)
