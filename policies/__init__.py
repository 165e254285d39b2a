"""Routing policies: pure functions from facts and candidates to a decision that says why."""
