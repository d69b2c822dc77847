"""Config files for ``--config``."""
