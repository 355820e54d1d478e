"""What people look at when a run has ended: curves, bars, galleries and pictures with boxes, as PNG files.

Not here: numbers (`report.json` has them all), and anything that a run depends on. A figure that cannot be drawn costs
a warning and never a job, and without matplotlib there are none. matplotlib is imported when a figure is drawn.

Which figures a run gets, and how they are written and told of, says `runs/figures.py`. `history.py` reads what happened
from the run's events; `curves.py` and `bars.py` draw charts; `gallery.py` and `pictures.py` lay pictures out on a
`sheet.py`; `style.py` is what all share: colours, lettering, names that may hold anything.
"""
