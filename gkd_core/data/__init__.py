"""Data sets: from annotation files and pictures to batches of tensors.

Read in this order: `records` (what a data set is), `find` and `find_yolo` (a folder's layout), `coco`, `voc` and `yolo`
with `data_yaml` (the formats), `classes` (renamed, left out), `reading` (`load`: annotations and pictures put together,
by `validate`), `check` (the same as a report for people), `examine` and `near_duplicates` (the slower checks),
`pictures` (decoding), `augment` and `loading` (batches), `shapes` (a data set that the project draws itself).
Everything but `loading` works without torch, so that a service can check a data set without a GPU's libraries.
Data sets stay where they are: nothing is copied or converted on disk.
"""
