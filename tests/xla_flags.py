"""XLA's flags for the tests and for the processes that they start."""

import importlib.metadata
import os

# Compile options of the fixture ``unoptimised``. jaxlib 0.10 compiles faster still without its
# fusion emitters; 0.11 has no such option, and XLA refuses one that it does not know.
UNOPTIMISED: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if importlib.metadata.version("jaxlib").startswith("0.10."):
    UNOPTIMISED["xla_cpu_use_fusion_emitters"] = False


def xla_flags(devices: int = 1, optimization: int = 1) -> str:
    """This process's ``XLA_FLAGS`` with another number of virtual devices.

    XLA takes the last of a flag given twice, so a limit that the tests were started under, such as
    --xla_cpu_max_isa, holds in the processes that they start, too.
    """
    return (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices} "
        f"--xla_backend_optimization_level={optimization}".strip()
    )
