"""Identities as clusters, as JLCC sees them: hard levels, label noise, identities that may be one."""
