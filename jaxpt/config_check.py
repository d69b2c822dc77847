"""What every number of a config must be, whatever it is for."""

import math

from jaxpt.errors import require

LARGEST = 2**31 - 1  # whole numbers are int32 on the devices


def check_numbers(config, prefix: str = "") -> None:
    """Raises InputError for a number that is not finite, or a whole one beyond int32.

    Args:
      config: ConfigDict, whose parts are looked through too.
      prefix: what its fields' names begin with.
    """
    for name, value in config.items():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(part, "items"):
                check_numbers(part, f"{prefix}{name}.")
            elif isinstance(part, float):
                require(math.isfinite(part), f"{prefix}{name} must be finite, got {part}.")
            elif isinstance(part, int):
                require(
                    abs(part) <= LARGEST, f"{prefix}{name} must lie within ±{LARGEST}, got {part}."
                )
