"""COCO and COCO-Stuff files in, annotated photos out; `reader.py` is the way in."""
