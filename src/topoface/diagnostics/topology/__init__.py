"""The figures of the TopoFR paper: one file a command, and what its pictures and numbers are made of."""
