"""The pure core: money, usage, prices, budgets and estimates. No I/O, no clock, no randomness."""
