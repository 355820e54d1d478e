"""Data sets: from annotation files and pictures to batches of tensors.

Read in this order: `records` (what a data set is), `find` (a folder's layout), `coco` and `voc` (the formats),
`reading` (`load`: annotations and pictures put together), `check` (the same as a report for people),
`pictures` (decoding), `augment` and `loading` (batches), `shapes` (a data set that the project draws itself).
Everything but `loading` works without torch, so that a service can check a data set without a GPU's libraries.
It is no store of data sets: nothing is copied or converted on disk.
"""
