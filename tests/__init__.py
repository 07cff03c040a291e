"""A package, not a bare folder: one of this name in site-packages, as torch-fidelity 0.4 installs
it, would stand before that."""
