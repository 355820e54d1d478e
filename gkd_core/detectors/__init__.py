"""RetinaNet, Faster R-CNN and FCOS on any backbone; their weights, files and exported forms."""
