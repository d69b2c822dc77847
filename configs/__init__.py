"""Configs, as files that ``--config`` names."""
