"""Figures of a finished run: curves, bars, galleries and images with boxes, as PNG files.

Numbers are not here (`report.json` has them all), nor anything that a run depends on. A figure that cannot be drawn
leads to a warning and never fails a job; without matplotlib there are none. matplotlib is imported when a figure is
drawn.

Which figures a run gets, and how they are written and reported, is in `runs/figures.py`. `history.py` reads the run's
events; `curves.py` and `bars.py` draw charts; `gallery.py` and `pictures.py` lay images out on a `sheet.py`;
`style.py` holds what all share: colours, fonts, display of arbitrary names.
"""
