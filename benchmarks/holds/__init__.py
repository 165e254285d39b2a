"""How much of a budget can be used, by how holds are made."""
