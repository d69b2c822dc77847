"""A TPU or a GPU that JAX does not see is told, before anything is computed."""

import subprocess
import sys

import jax
import pytest

from jaxpt import cli
from jaxpt.errors import InputError
from jaxpt.train import accelerator


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without accelerators, where nothing asks for the CPU: a function adds devices."""
    monkeypatch.setattr(accelerator, "PCI", str(tmp_path / "pci"))
    monkeypatch.setattr(accelerator, "GPUS", (str(tmp_path / "nvidia0"),))
    platforms = jax.config.jax_platforms
    jax.config.update("jax_platforms", None)

    def add(vendor, device):
        folder = tmp_path / "pci" / f"{vendor}-{device}"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{device}\n")

    yield add
    jax.config.update("jax_platforms", platforms)


def test_a_machine_without_one_is_fine(machine):
    machine("0x1ae0", "0x0042")  # Google's network card
    machine("0x8086", "0x0063")
    accelerator.require_visible()


@pytest.mark.parametrize("device", accelerator.TPUS)
def test_a_tpu_that_is_not_seen(machine, device):
    machine("0x1ae0", device)
    with pytest.raises(InputError, match=r"has a TPU, .* only the CPU: install 'jaxpt\[tpu\]'"):
        accelerator.require_visible()
    jax.config.update("jax_platforms", "cpu")
    accelerator.require_visible()  # as asked for


def test_a_gpu_that_is_not_seen(tmp_path):
    (tmp_path / "nvidia0").touch()
    with pytest.raises(InputError, match=r"has an NVIDIA GPU, .* 'jaxpt\[cuda\]'"):
        accelerator.require_visible()


@pytest.mark.parametrize(
    "argv",
    [
        ["demo"],
        ["replay", "run"],
        ["transfer", "scratch", "--out=r"],
        ["evaluate", "r", "--out=r"],
        ["scaling", "--sizes=100,200,400", "--out=s"],
        ["pretrain", "--config=pretrain/digits.py", "--workdir=run"],
    ],
)
def test_no_command_computes_beside_it(argv, machine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    machine("0x1ae0", "0x0063")
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert "this machine has a TPU" in said and len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pci"]


def test_a_platform_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "jaxpt.cli",
            "pretrain",
            "--config=pretrain/digits.py",
            "--workdir=run",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2 and "JAX_PLATFORMS='tpu'" in found.stderr, found.stderr
    assert "Traceback" not in found.stderr and not list(tmp_path.iterdir())
