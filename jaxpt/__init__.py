"""jaxpt: label-aware pre-training of image encoders that transfer, in JAX/Flax."""

import os

__version__ = "0.1.0"

# Setuptools puts the folder configs/ into the package. In a source tree that is not installed it
# lies beside the package, and is looked for there.
if not os.path.isdir(os.path.join(__path__[0], "configs")):
    __path__.append(os.path.dirname(__path__[0]))
