"""XLA's flags for processes that tests start."""

import os


def xla_flags(devices: int = 1, optimization: int = 1) -> str:
    """This process's ``XLA_FLAGS`` with another number of virtual devices.

    XLA takes the last of a flag given twice, so a limit that the tests were started under, such as
    --xla_cpu_max_isa, holds in the processes that they start, too.
    """
    return (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices} "
        f"--xla_backend_optimization_level={optimization}".strip()
    )
