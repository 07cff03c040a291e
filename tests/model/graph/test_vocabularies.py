import pytest

from model.graph.vocabularies import check_names, compare_vocabularies, listed
from pipeline.errors import UserError
from pipeline.scene import IMAGE, IN_IMAGE, Relation, SceneGraph, Vocabulary

OURS = Vocabulary((IMAGE, "boat", "tree"), (IN_IMAGE, "above", "inside"))
THEIRS = Vocabulary((IMAGE, "tree", "sky", "sea"), (IN_IMAGE, "inside", "left touching"))


def test_names_that_only_one_side_has_are_listed_on_that_side():
    found = compare_vocabularies(OURS, THEIRS)
    assert found.unknown_objects == ("sky", "sea")
    assert found.unknown_predicates == ("left touching",)
    assert found.unused_objects == ("boat",)
    assert found.unused_predicates == ("above",)
    assert found


def test_vocabularies_that_differ_in_order_alone_do_not_differ():
    other = Vocabulary((IMAGE, "tree", "boat"), (IN_IMAGE, "inside", "above"))
    assert not any(compare_vocabularies(OURS, other))


def test_every_unknown_name_of_a_graph_is_in_the_one_line():
    graph = SceneGraph(
        ("boot", "tree", "boot", "moon"), (Relation(0, "abve", 1), Relation(1, "inside", 0))
    )
    with pytest.raises(UserError, match=r"x\.pt does not know 'boot', 'moon', 'abve'") as raised:
        check_names(graph, OURS, "x.pt")
    assert "did you mean 'boat'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_graph_whose_relation_alone_is_unknown_is_given_a_relation_as_a_hint():
    graph = SceneGraph(("boat", "tree"), (Relation(0, "abve", 1),))
    with pytest.raises(UserError, match="did you mean 'above'"):
        check_names(graph, OURS, "x.pt")


def test_a_graph_of_known_names_passes():
    check_names(SceneGraph(("boat", "tree"), (Relation(0, "above", 1),)), OURS, "x.pt")


def test_a_list_of_names_stays_a_line_and_says_how_many_more():
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed([str(i) for i in range(20)]).endswith("'11' and 8 more")
