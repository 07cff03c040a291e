import pytest

from pipeline.scene import (
    IMAGE,
    IN_IMAGE,
    Box,
    Photo,
    Relation,
    Scene,
    SceneObject,
    Vocabulary,
    image_of,
    patch_id,
)


def test_a_vocabulary_comes_back_from_its_json():
    vocabulary = Vocabulary((IMAGE, "boat", "sea"), (IN_IMAGE, "above"))

    again = Vocabulary.from_json(vocabulary.to_json())

    assert again == vocabulary
    assert [again.object_index(name) for name in again.objects] == [0, 1, 2]
    assert again.predicate_index("above") == 1


@pytest.mark.parametrize(
    ("objects", "predicates"),
    [
        (("boat", IMAGE), (IN_IMAGE,)),
        ((), (IN_IMAGE,)),
        ((IMAGE,), ("above", IN_IMAGE)),
        ((IMAGE, "boat", "boat"), (IN_IMAGE,)),
        ((IMAGE,), (IN_IMAGE, "above", "above")),
    ],
)
def test_a_vocabulary_starts_with_the_image_and_names_each_thing_once(objects, predicates):
    with pytest.raises(ValueError, match="a vocabulary"):
        Vocabulary(objects, predicates)


def test_patch_ids_tell_their_photo_and_rise_with_it():
    ids = [patch_id(image_id, index) for image_id in (0, 1, 2**46) for index in (0, 1, 65_535)]

    assert ids == sorted(set(ids))
    assert [image_of(i) for i in ids] == [0] * 3 + [1] * 3 + [2**46] * 3
    assert max(ids) < 2**63  # they are stored as signed 64-bit numbers


def test_a_scene_is_a_graph_and_a_row_of_patches():
    photo = Photo(5, "train2017/a.jpg", 10, 10, "train", "", "")
    boxes = (Box(0.0, 0.0, 1.0, 0.5), Box(0.0, 0.5, 1.0, 1.0))
    objects = (SceneObject(2, "sky", boxes[0]), SceneObject(7, "sea", boxes[1]))
    scene = Scene(photo, objects, (Relation(0, "above", 1),))

    assert scene.graph.objects == ("sky", "sea")
    assert scene.graph.boxes == boxes
    assert scene.graph.relations == scene.relations
    assert scene.patch_ids == (5 << 16 | 2, 5 << 16 | 7)
