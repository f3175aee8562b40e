"""The formulas: pure tensor functions, no state, no files, right in float64 too."""
