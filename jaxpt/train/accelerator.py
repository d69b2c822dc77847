"""An accelerator that is there and not used is an error, not a slow run on the CPU."""

import os
import pathlib

import jax

from jaxpt.errors import InputError, require

PCI = "/sys/bus/pci/devices"
GOOGLE = "0x1ae0"
# Google's network cards have its vendor's number, too. v2 and v3, v4, v5p, v5e, v6e, 7x.
TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
GPUS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")


def require_visible() -> None:
    """Asks JAX for its devices, and says so where the machine has better ones than it found.

    JAX itself goes on with the CPU and a warning when libtpu or CUDA's plugin is missing, or when
    another process holds the TPU. ``JAX_PLATFORMS=cpu`` asks for the CPU. Call it after
    ``distributed.joined``: it begins to use the devices.

    Raises:
      InputError: where there is a TPU or an NVIDIA GPU and JAX has only the CPU, or where JAX
        cannot have the platform that ``JAX_PLATFORMS`` names.
    """
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise InputError(
            f"JAX cannot use JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r} "
            f"({' '.join(str(error).split())[:200]}): install its package, end what "
            "else holds the device, or leave the variable out."
        ) from error
    if found != "cpu" or "cpu" in (jax.config.jax_platforms or ""):
        return
    for there, name, extra in ((has_tpu(), "a TPU", "tpu"), (has_gpu(), "an NVIDIA GPU", "cuda")):
        require(
            not there,
            f"this machine has {name}, but JAX sees only the CPU: install "
            f"'jaxpt[{extra}]', end what else holds the device, or ask for the CPU with "
            "JAX_PLATFORMS=cpu.",
        )


def has_tpu() -> bool:
    """Whether a TPU chip is on the machine's PCI bus."""

    def number(device, name):
        return (device / name).read_text().strip()

    return any(
        number(device, "vendor") == GOOGLE and number(device, "device") in TPUS
        for device in pathlib.Path(PCI).glob("*")
        if (device / "vendor").exists()
    )


def has_gpu() -> bool:
    """Whether NVIDIA's driver shows a GPU."""
    return any(map(os.path.exists, GPUS))
