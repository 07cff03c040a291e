from pipeline.scene import Relation, SceneGraph
from pipeline.sentences import sentences


def test_each_relation_is_a_sentence_and_all_are_joined_by_and():
    relations = (Relation(1, "above", 0), Relation(0, "left of", 2))
    graph = SceneGraph(("boat", "sky-other", "pier"), relations)
    assert sentences(graph) == "sky-other above boat and boat left of pier"


def test_an_object_that_no_relation_names_is_told_too():
    graph = SceneGraph(("boat", "tree", "tree"), (Relation(0, "right of", 2),))
    assert sentences(graph) == "boat right of tree and tree"
    assert sentences(SceneGraph(("boat",), ())) == "boat"
