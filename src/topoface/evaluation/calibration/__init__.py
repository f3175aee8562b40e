"""Thresholds for a false accept rate, and scores as probabilities."""
