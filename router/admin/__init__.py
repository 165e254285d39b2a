"""What is served beside calls for models."""
