"""Studies of many runs: methods and seeds, scaling curves, the demo."""
