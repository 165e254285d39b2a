"""What the proxy costs, measured."""
