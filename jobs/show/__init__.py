"""Samples, sheets, curves and pages; methods.py opens runs of any kind and generates by them."""
