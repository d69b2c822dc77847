"""XLA's flags for the tests and for the processes that they start."""

import importlib.metadata
import os

# Tests compile much and compute little: unoptimised programs cost half as much. jaxlib 0.10 is
# faster still without its fusion emitters; 0.11 has no such flag, and XLA aborts at an unknown one.
UNOPTIMISED = {"xla_backend_optimization_level": "0"}
OPTIMISED = {"xla_backend_optimization_level": "3"}
if importlib.metadata.version("jaxlib").startswith("0.10."):
    UNOPTIMISED["xla_cpu_use_fusion_emitters"] = "false"
    OPTIMISED["xla_cpu_use_fusion_emitters"] = "true"


def xla_flags(devices: int = 1, **flags: str) -> str:
    """This process's ``XLA_FLAGS`` with another number of virtual devices, and other ``flags``.

    XLA takes the last of a flag given twice, so a limit that the tests were started under, such as
    --xla_cpu_max_isa, holds in the processes that they start, too.
    """
    flags = {"xla_force_host_platform_device_count": str(devices)} | flags
    return " ".join(
        [os.environ.get("XLA_FLAGS", ""), *(f"--{name}={value}" for name, value in flags.items())]
    ).strip()
