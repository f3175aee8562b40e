"""Distributions of genuine and impostor pairs, as UNPG sees them."""
