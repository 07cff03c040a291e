"""The toy world: styles, shapes and scenes are painted, then written as other datasets' files."""
