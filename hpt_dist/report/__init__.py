"""What finished trials show: the answer, figures, verdicts in words, claims."""
