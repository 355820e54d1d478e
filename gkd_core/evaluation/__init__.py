"""The numbers of COCO and VOC, their intervals, and how far two runs of a detector agree."""
