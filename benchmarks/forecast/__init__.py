"""How good the forecast of exhausted budgets is, on simulated spend."""
