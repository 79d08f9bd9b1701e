"""One image: its formats, pixels, crops, colours and likeness."""
