"""Competitors: how each library does each kind of work, written as its users would."""
