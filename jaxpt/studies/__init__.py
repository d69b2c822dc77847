"""Many runs side by side: studies over methods and seeds, scaling curves, the demo."""
