"""The drawing of layers in CONTRIBUTING.md says what import-linter holds."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
    "contracts"
]


def drawn_layers():
    """package -> its lines in the drawing, each the set of names that stand beside each other."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    drawing = re.search(r"## Layers.*?```\n(.*?)```", text, re.DOTALL)[1]
    layers, package = {}, ""
    for line in drawing.splitlines():
        if match := re.match(r"(\w+)/ ", line):
            package = match[1]
        names = re.split(r"  +", line[12:])[0]  # what follows two spaces is a remark
        layers.setdefault(package, []).append({name.strip() for name in names.split("|")})
    return layers


def test_the_drawing_has_the_layers_of_the_contracts():
    drawn = drawn_layers()
    assert list(drawn) == CONTRACTS[0]["layers"]
    for contract in CONTRACTS[1:]:
        (container,) = contract["containers"]
        layers = [{name.strip() for name in layer.split("|")} for layer in contract["layers"]]
        assert drawn[container] == layers
