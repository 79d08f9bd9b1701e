"""The training loop, its state, its optimizer, its selection."""
