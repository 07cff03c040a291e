"""Which library resizes photos and patches: an option, known before any such library is loaded."""

from typing import Literal

Resizer = Literal["torch", "pillow"]
