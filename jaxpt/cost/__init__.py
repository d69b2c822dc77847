"""Estimates of a run's FLOPs, memory and chip-hours before it starts."""
