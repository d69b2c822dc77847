"""Raises an error if the machine has an accelerator that JAX does not use."""

import os
import pathlib

import jax

from jaxpt.errors import InputError, require

PCI = "/sys/bus/pci/devices"
GOOGLE = "0x1ae0"
# PCI device ids of v2 and v3, v4, v5p, v5e, v6e, 7x. The vendor id alone is not enough, as Google's
# network cards have it too.
TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
GPUS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")


def require_visible() -> None:
    """Raises if JAX has only the CPU although the machine has a TPU or an NVIDIA GPU.

    JAX itself continues on the CPU with a warning if libtpu or the CUDA plugin is missing, or if
    another process holds the TPU. ``JAX_PLATFORMS=cpu`` selects the CPU explicitly. Call this after
    ``distributed.joined``, as it initializes the devices.

    Raises:
      InputError: if there is a TPU or an NVIDIA GPU and JAX has only the CPU, or if JAX cannot use
        the platform that ``JAX_PLATFORMS`` names.
    """
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise InputError(
            f"JAX cannot use JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r} "
            f"({' '.join(str(error).split())[:200]}): install its package, end the process "
            "that holds the device, or unset the variable."
        ) from error
    if found != "cpu" or "cpu" in (jax.config.jax_platforms or ""):
        return
    for there, name, extra in ((has_tpu(), "a TPU", "tpu"), (has_gpu(), "an NVIDIA GPU", "cuda")):
        require(
            not there,
            f"this machine has {name}, but JAX sees only the CPU: install "
            f"'jaxpt[{extra}]', end the process that holds the device, or select the CPU with "
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
    """Whether NVIDIA's driver reports a GPU."""
    return any(map(os.path.exists, GPUS))
