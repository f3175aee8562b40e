"""Protocols as tables: drawn from one's own faces, shared, read again."""
