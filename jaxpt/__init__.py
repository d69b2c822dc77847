"""jaxpt: label-aware pre-training of image encoders that transfer, in JAX/Flax."""

__version__ = "0.1.0"
