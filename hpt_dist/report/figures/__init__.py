"""The kinds of figures of a report, drawn as SVG: one file a kind."""
