"""The kinds of runs (train and distil: `train.py`), each from start to end, and the files that they write."""
