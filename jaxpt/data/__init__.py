"""Image sets, the order of examples, and augmentation on the device."""
