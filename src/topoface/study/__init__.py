"""Grids of runs: recipes x overrides x seeds, resumable, and the table of what came out."""

from topoface.study.grid import load_study, plan, run_study

__all__ = ["load_study", "plan", "run_study"]
