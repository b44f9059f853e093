"""Circuits: exact causal effects of nodes and edges, their approximations, searches for small circuits, and scores."""
