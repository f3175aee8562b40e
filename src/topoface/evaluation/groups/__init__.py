"""Error rates by group of people or images."""
