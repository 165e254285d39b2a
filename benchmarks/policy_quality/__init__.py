"""How good the learned router is."""
