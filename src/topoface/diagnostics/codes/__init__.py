"""Identity codes as GIF uses them: who shares a prefix, how vectors lie beside learned centers, what a run can decode."""
