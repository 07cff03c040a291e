"""Draws what people look at: sheets, curves, samples and pages. Called by the commands."""
