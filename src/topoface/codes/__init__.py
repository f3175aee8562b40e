"""Identity codes: from frozen embeddings to code vectors, from those to short codes of tokens, and the table of both."""
