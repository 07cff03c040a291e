"""Visual Genome's files in, annotated photos out; `reader.py` is the way in.

The way of the data: layout (where files lie) -> entries (of shapes, of one release) -> lists,
names, objects, attributes, relations -> annotations -> reader (the filter, the cap) -> protocol.
"""
