#!/usr/bin/env bash
# Checks of a release: installs the wheel in fresh environments, away from the checkout.
#
#     scripts/check_wheel.sh [SEEDS [--short]]
#
# The losses must work with jax alone, the demo and README's commands with the wheel and its
# dependencies, and the notebooks' first cell must install the wheel where there is only Jupyter. SEEDS
# is the number of runs per loss in the demo (default 5, as in README). With --short the notebooks
# train less.
set -euo pipefail
cd "$(dirname "$0")/.."
HERE=$(mktemp -d)
trap 'rm -rf "$HERE"' EXIT
JAX=$(sed -n 's/^    \(jax>=.*\)$/\1/p' setup.cfg)

"${PYTHON:-python3}" -m venv "$HERE/build"
"$HERE/build/bin/pip" install --quiet 'build>=1.2,<2' 'twine>=5,<7'
"$HERE/build/bin/python" -m build --quiet --outdir "$HERE/dist" .
"$HERE/build/bin/twine" check --strict "$HERE"/dist/*
WHEEL=$(ls "$HERE"/dist/*.whl)

"${PYTHON:-python3}" -m venv "$HERE/pure"
"$HERE/pure/bin/pip" install --quiet "$JAX"
"$HERE/pure/bin/pip" install --quiet --no-deps "$WHEEL"
(cd "$HERE" && pure/bin/python -c "from jaxpt.losses import look; print(look.__doc__.splitlines()[0])")

"${PYTHON:-python3}" -m venv "$HERE/whole"
"$HERE/whole/bin/pip" install --quiet "$WHEEL"
(cd "$HERE" && whole/bin/jaxpt demo --seeds "${1:-5}" --out demo && test -s demo/report.html)
(cd "$HERE" && PATH="$HERE/whole/bin:$PATH" python "$OLDPWD/tests/readme.py")

"${PYTHON:-python3}" -m venv "$HERE/notebooks"
"$HERE/notebooks/bin/pip" install --quiet 'nbclient>=0.10,<1' 'ipykernel>=6.29,<8'
"$HERE/notebooks/bin/python" colab/run.py --jaxpt "$WHEEL" "${@:2}"
echo "the wheel is fine: $(basename "$WHEEL")"
