"""Tables, verdicts and plots of finished trials."""
