"""Faregate: a model router and cost guard for OpenAI-compatible clients."""

__version__ = "0.1.0"
