"""Runs README's commands, word for word and in order, in the present folder.

    python tests/readme.py

Needs jaxpt and the standard library alone, so it shows what works after what README installs.
"""

import subprocess

import shown

# Commands that something else runs, or that need more than a machine with a CPU.
ELSEWHERE = {
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "make docs": ".ci/run",
    "make record": "its parts: make demo, and tests/test_docs.py for what follows from records",
    "pip install .": "scripts/check_wheel.sh",
    "pip install .[cuda]": "needs a GPU; tests/test_commands.py checks that the extra exists",
    "pip install .[tpu]": "needs a TPU; .ci/run installs it for its compiler",
    "pip install .[tfds]": ".ci/run",
    "jaxpt pretrain --config=pretrain/own_images.py --config.data.path=pictures "
    "--workdir=runs/pictures": "tests/test_own_pictures.py",
    "jaxpt embed runs/pictures --out=vectors.npz": "tests/test_own_pictures.py",
    "jaxpt search vectors.npz": "tests/test_own_pictures.py",
    "jaxpt pretrain --config=pretrain/imagenet/look.py --config.data.path=imagenet "
    "--workdir=runs/imagenet_look": "needs ImageNet; tests/test_recipes.py runs it on few images",
}


def commands() -> list[str]:
    """README's whole commands, each once."""
    found = shown.commands((shown.ROOT / "README.md").read_text())
    return list(dict.fromkeys(str(command) for command in found if command.whole))


def main() -> None:
    for command in commands():
        if command not in ELSEWHERE:
            print(f"$ {command}", flush=True)
            subprocess.run(command.split(), check=True)


if __name__ == "__main__":
    main()
