"""What hpt-dist's methods are worth on images that install here: measured, and written as a page.

`make evidence` works through `matrix`, a unit at a time, and leaves small files in `results/`,
which are committed; `make evidence-page` writes docs/evidence.md from them alone.
"""
