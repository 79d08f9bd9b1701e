"""Tables, verdicts and pictures of what finished."""
