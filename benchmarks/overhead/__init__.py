"""What the proxy adds to a request: CPU, memory and time, beside nginx and a hello world, in one run."""
