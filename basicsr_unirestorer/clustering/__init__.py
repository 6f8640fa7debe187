"""Degradation trees: building, assignment, quality. Knows nothing of BasicSR."""
