"""The books for other programs and other people: exports, re-rating, reconciliation. Never on the hot path."""
