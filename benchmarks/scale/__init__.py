"""What 100,000 requests a second need: `python -m benchmarks.scale`."""
