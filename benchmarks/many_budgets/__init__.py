"""What many budgets and many keys cost."""
