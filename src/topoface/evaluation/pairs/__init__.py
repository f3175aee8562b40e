"""Verification: pairs of images, opened from every form they come in, and judged."""
