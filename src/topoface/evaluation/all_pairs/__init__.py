"""Every pair of one's own set, counted exactly in bounded memory."""
