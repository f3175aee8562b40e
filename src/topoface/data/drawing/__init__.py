"""How ``data.synthetic`` draws a face; private to it."""
