"""Does a budget hold? Many calls at its edge, answers that lie, programs that die: the provider's bill beside the proxy's books."""
