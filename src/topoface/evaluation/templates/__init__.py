"""Templates (1:1) and searches (1:N): protocols, pooling, figures."""
