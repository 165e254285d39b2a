"""Detectors: pure functions from the text of a prompt to the value of a signal. `router.signals` runs them."""
