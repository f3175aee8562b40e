"""The HTML report: page, sections, curves."""
