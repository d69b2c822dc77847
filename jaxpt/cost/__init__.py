"""What a run costs before it is started: FLOPs, memory, chip-hours."""
