"""How each kind of stage runs."""
