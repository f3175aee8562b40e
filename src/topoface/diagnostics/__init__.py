"""The papers' figures as commands: each draws PNG and a self-contained page, and writes its numbers as JSON."""
