"""A user's JSON -> scene graphs whose every name is in a vocabulary.

    {"objects": ["sky-other", "sea", "boat"],
     "relationships": [[0, "above", 1], [2, "inside", 1]],
     "boxes": [[0, 0, 1, 0.5], [0, 0.5, 1, 1], [0.4, 0.6, 0.6, 0.7]]}

`boxes` (x0 y0 x1 y1, fractions of the image, y downwards) may be left out. A file may also hold a
list of such graphs, which is sg2im's form.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, suggestion
from pipeline.json_file import read_json
from pipeline.scene import IMAGE, IN_IMAGE, Box, Relation, SceneGraph, Vocabulary

KEYS = ("objects", "relationships", "boxes")


def read_scene_graph(path: Path, vocabulary: Vocabulary) -> SceneGraph:
    """The one graph of a file."""
    graphs = read_scene_graphs(path, vocabulary)
    if len(graphs) != 1:
        raise UserError(
            f"{path} holds {len(graphs)} scene graphs where one is wanted; put it in its own file"
        )
    return graphs[0]


def read_scene_graphs(path: Path, vocabulary: Vocabulary) -> list[SceneGraph]:
    """All graphs of a file: at least one."""
    value = read_json(path, "mend it there")
    if not isinstance(value, list):
        return [parse_scene_graph(value, vocabulary, str(path))]
    if not value:
        raise UserError(f"{path} holds an empty list; it should hold at least one scene graph")
    return [
        parse_scene_graph(graph, vocabulary, f"{path}, graph {i}") for i, graph in enumerate(value)
    ]


def parse_scene_graph(value: Any, vocabulary: Vocabulary, where: str) -> SceneGraph:
    """A graph from JSON values; `where` begins every message."""
    if not isinstance(value, dict):
        raise UserError(f'{where}: {_show(value)} is not a scene graph {{"objects": [...], ...}}')
    for key in value:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}; {suggestion(key, list(KEYS))}")
    objects = _objects(value.get("objects"), vocabulary, where)
    relations = _relations(value.get("relationships", []), len(objects), vocabulary, where)
    boxes = value.get("boxes")
    return SceneGraph(objects, relations, None if boxes is None else _boxes(boxes, objects, where))


def _objects(value: Any, vocabulary: Vocabulary, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(
            f"{where}: 'objects' should be a list of at least one name, not {_show(value)}"
        )
    return tuple(
        _known(name, vocabulary.objects, IMAGE, f"{where}: object {i}")
        for i, name in enumerate(value)
    )


def _relations(
    value: Any, num_objects: int, vocabulary: Vocabulary, where: str
) -> tuple[Relation, ...]:
    if not isinstance(value, list):
        raise UserError(f"{where}: 'relationships' should be a list, not {_show(value)}")
    return tuple(
        _relation(entry, num_objects, vocabulary, f"{where}: relationship {i}")
        for i, entry in enumerate(value)
    )


def _relation(value: Any, num_objects: int, vocabulary: Vocabulary, where: str) -> Relation:
    if not isinstance(value, list) or len(value) != 3:
        raise UserError(
            f"{where} should be [subject, relation, object], such as "
            f'[0, "{vocabulary.predicates[-1]}", 1], not {_show(value)}'
        )
    subject, name, target = value
    for end, index in (("subject", subject), ("object", target)):
        if type(index) is not int or not 0 <= index < num_objects:
            last = num_objects - 1
            raise UserError(
                f"{where}: its {end} {_show(index)} is not the place of an object, 0 to {last}"
            )
    if subject == target:
        raise UserError(f"{where} is of object {subject} with itself; it takes two objects")
    return Relation(subject, _known(name, vocabulary.predicates, IN_IMAGE, where), target)


def _known(name: Any, words: tuple[str, ...], reserved: str, where: str) -> str:
    if name == reserved:
        raise UserError(f"{where}: {reserved} is added to every graph, leave it out")
    if isinstance(name, str) and name in words:
        return name
    known = [word for word in words if word != reserved]
    raise UserError(f"{where}: unknown name {_show(name)}; {suggestion(str(name), known)}")


def _boxes(value: Any, objects: tuple[str, ...], where: str) -> tuple[Box, ...]:
    if not isinstance(value, list) or len(value) != len(objects):
        count = len(value) if isinstance(value, list) else _show(value)
        raise UserError(
            f"{where}: 'boxes' should hold a box for each object: {len(objects)} in all, not "
            f"{count}"
        )
    return tuple(_box(entry, f"{where}: box {i}") for i, entry in enumerate(value))


def _box(value: Any, where: str) -> Box:
    numbers = isinstance(value, list) and all(type(v) in (int, float) for v in value)
    if not numbers or len(value) != 4:
        raise UserError(f"{where} should be [x0, y0, x1, y1], not {_show(value)}")
    if not all(0 <= v <= 1 for v in value):  # not a number fails this too
        raise UserError(
            f"{where}: {_show(value)} reaches outside the image; x0 y0 x1 y1 are fractions of it, "
            f"from 0 to 1"
        )
    x0, y0, x1, y1 = (float(v) for v in value)
    if x0 >= x1 or y0 >= y1:
        raise UserError(
            f"{where}: {_show(value)} is empty or inside out; x0 must be less than x1, y0 than y1"
        )
    return Box(x0, y0, x1, y1)


def _show(value: Any) -> str:
    """As JSON, short enough for a line."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 60 else text[:57] + "..."
