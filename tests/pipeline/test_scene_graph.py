import json
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Box, Relation, Vocabulary
from pipeline.scene_graph import parse_scene_graph, read_scene_graph, read_scene_graphs

VOCABULARY = Vocabulary((IMAGE, "boat", "sea", "sky-other"), (IN_IMAGE, *GEOMETRIC))
BEACH = {"objects": ["sea", "boat"], "relationships": [[1, "inside", 0]]}
EXAMPLES = Path(__file__).parents[2] / "examples"


def put(folder, value):
    path = folder / "graph.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def refused(value, *words):
    with pytest.raises(UserError) as caught:
        parse_scene_graph(value, VOCABULARY, "graph.json")
    message = str(caught.value)
    assert message.startswith("graph.json")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_graph_is_read_with_its_boxes(tmp_path):
    boxes = [[0, 0.5, 1, 1], [0.25, 0.6, 0.5, 0.7]]
    graph = read_scene_graph(put(tmp_path, BEACH | {"boxes": boxes}), VOCABULARY)

    assert graph.objects == ("sea", "boat")
    assert graph.relations == (Relation(1, "inside", 0),)
    assert graph.boxes == (Box(0.0, 0.5, 1.0, 1.0), Box(0.25, 0.6, 0.5, 0.7))


def test_boxes_and_relations_may_be_left_out(tmp_path):
    graph = read_scene_graph(put(tmp_path, {"objects": ["sea"]}), VOCABULARY)

    assert (graph.relations, graph.boxes) == ((), None)


def test_a_list_of_graphs_is_read_in_its_order(tmp_path):
    path = put(tmp_path, [BEACH, {"objects": ["sky-other"]}])

    assert [g.objects for g in read_scene_graphs(path, VOCABULARY)] == [
        ("sea", "boat"),
        ("sky-other",),
    ]
    with pytest.raises(UserError, match="holds 2 scene graphs where one is wanted"):
        read_scene_graph(path, VOCABULARY)
    assert read_scene_graph(put(tmp_path, [BEACH]), VOCABULARY).objects == ("sea", "boat")


def test_a_fault_in_a_list_is_named_by_its_graph(tmp_path):
    path = put(tmp_path, [BEACH, {"objects": ["see"]}])

    with pytest.raises(UserError, match=r"graph.json, graph 1: object 0: .*did you mean 'sea'"):
        read_scene_graphs(path, VOCABULARY)
    with pytest.raises(UserError, match="empty list"):
        read_scene_graphs(put(tmp_path, []), VOCABULARY)


def test_broken_json_is_told_with_line_and_column(tmp_path):
    with pytest.raises(UserError, match=r"graph.json is not JSON at .*line 2, column 9"):
        read_scene_graph(put(tmp_path, '{"objects":\n ["sea" "boat"]}'), VOCABULARY)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.json cannot be read: No such file"):
        read_scene_graph(tmp_path / "none.json", VOCABULARY)


@pytest.mark.parametrize("name", ["bota", "Boat", "boats"])
def test_an_unknown_object_is_told_its_nearest(name):
    refused({"objects": ["sea", name]}, "object 1", f'"{name}"', "did you mean 'boat'")


@pytest.mark.parametrize("name", ["zzz", 5, None, [1], {"a": 1}])
def test_what_resembles_nothing_is_told_some_known_names(name):
    refused({"objects": [name]}, "object 0: unknown name", "known are boat, sea, sky-other")


@pytest.mark.parametrize("value", [None, [], "sea", {}])
def test_a_graph_has_at_least_one_object(value):
    refused({"objects": value}, "'objects' should be a list of at least one name")


def test_the_image_node_is_not_for_the_user_to_give():
    refused({"objects": [IMAGE]}, "is added to every graph")
    edge = {"objects": ["sea", "boat"], "relationships": [[0, IN_IMAGE, 1]]}
    refused(edge, "relationship 0", "is added to every graph")


@pytest.mark.parametrize(
    ("relation", "words"),
    [
        ([1, "left", 0], "did you mean 'left of'"),
        ([1, "insied", 0], "did you mean 'inside'"),
        ([2, "inside", 0], "its subject 2 is not the place of an object, 0 to 1"),
        ([0, "inside", -1], "its object -1 is not the place of an object"),
        ([True, "inside", 0], "its subject true is not the place"),
        ([1.0, "inside", 0], "its subject 1.0 is not the place"),
        (["boat", "inside", "sea"], 'its subject "boat" is not the place'),
        ([1, "inside", 1], "object 1 with itself"),
        ([1, "inside"], 'should be [subject, relation, object], such as [0, "surrounding", 1]'),
        ("inside", "should be [subject, relation, object]"),
    ],
)
def test_a_relation_that_makes_no_sense_is_named(relation, words):
    value = {"objects": ["sea", "boat"], "relationships": [[0, "above", 1], relation]}
    refused(value, "relationship 1", words)


def test_relations_are_a_list():
    refused(BEACH | {"relationships": "inside"}, "'relationships' should be a list")


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0, 0, 1], "should be [x0, y0, x1, y1]"),
        ([0, 0, 1, "1"], "should be [x0, y0, x1, y1]"),
        ("0 0 1 1", "should be [x0, y0, x1, y1]"),
        ([0, 0, 1, 1.01], "reaches outside the image"),
        ([-0.1, 0, 1, 1], "reaches outside the image"),
        ([0, 0, 1, float("nan")], "reaches outside the image"),
        ([0.5, 0, 0.4, 1], "empty or inside out"),
        ([0, 0.5, 1, 0.5], "empty or inside out"),
    ],
)
def test_a_box_that_makes_no_sense_is_named(box, words):
    refused(BEACH | {"boxes": [[0, 0, 1, 1], box]}, "box 1", words)


def test_every_object_has_a_box_or_none_has():
    refused(BEACH | {"boxes": [[0, 0, 1, 1]]}, "a box for each object: 2 in all, not 1")


def test_a_misspelt_key_is_not_passed_over():
    refused({"objects": ["sea"], "relationship": []}, "did you mean 'relationships'")


def test_a_name_is_shown_as_it_is_written_and_half_a_character_by_its_number():
    refused({"objects": ["\u81ea\u884c\u8f66"]}, 'unknown name "\u81ea\u884c\u8f66"')
    refused({"objects": ["\ud800"]}, r'unknown name "\ud800"')


@pytest.mark.parametrize("value", [5, "sea", None])
def test_what_is_no_graph_is_refused(value):
    refused(value, "is not a scene graph")


# Of COCO-Stuff's names, those that the examples use: a test of our files, not of COCO's.
COCO_NAMES = (
    "person bus giraffe zebra surfboard grass road sand sea tree clouds sky-other building-other"
)
COCO = Vocabulary((IMAGE, *COCO_NAMES.split(), "traffic light"), (IN_IMAGE, *GEOMETRIC))


@pytest.mark.parametrize("name", ["coco_beach", "coco_savanna", "coco_street"])
def test_the_examples_are_scene_graphs(name):
    graph = read_scene_graph(EXAMPLES / f"{name}.json", COCO)

    assert len(graph.objects) >= 3
    assert graph.relations
