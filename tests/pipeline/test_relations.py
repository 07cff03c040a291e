from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import DatasetError
from pipeline.masks import masks_over_boxes, usable_segmentation
from pipeline.relations import drawn_pairs, predicate_of, scene_of
from pipeline.scene import AnnotatedObject, AnnotatedPhoto, Box, Photo, Relation, SceneObject

W, H = 40, 30  # px
BOX = (8, 4, 16, 16)  # x y w h px: one pixel for each cell of a mask


def annotated(image_id=7, boxes=((0, 0, 20, 20), (20, 10, 20, 20), (4, 4, 8, 8), (0, 20, 40, 10))):
    photo = Photo(image_id, "train2017/a.jpg", W, H, "train", "", "")
    objects = (AnnotatedObject(i, f"c{i}", box) for i, box in enumerate(boxes))
    return AnnotatedPhoto(photo, tuple(objects))


def at(x0, y0, x1, y1, mask=None):
    return SceneObject(0, "boat", Box(x0, y0, x1, y1), mask)


def around(x, y):
    return at(x - 0.05, y - 0.05, x + 0.05, y + 0.05)


# Relations


def test_given_relations_are_between_object_numbers_and_go_with_their_ends():
    photo = annotated()
    given = (Relation(3, "on", 0), Relation(0, "near", 2), Relation(1, "holds", 3))
    without = replace(photo, objects=photo.objects[:2] + photo.objects[3:], relations=given)

    scene = scene_of(without)  # its objects are 0, 1 and 3

    assert scene.relations == (Relation(2, "on", 0), Relation(1, "holds", 2))


def test_where_no_relation_is_given_on_purpose_none_is_made_up():
    assert scene_of(replace(annotated(), relations=())).relations == ()
    assert scene_of(annotated()).relations


def test_attributes_come_along():
    photo = annotated()
    tall = replace(photo.objects[0], attributes=("tall",))
    scene = scene_of(replace(photo, objects=(tall, *photo.objects[1:])))
    assert [o.attributes for o in scene.objects] == [("tall",), (), (), ()]


@pytest.mark.parametrize(
    ("dx", "dy", "predicate"),
    [
        (-0.2, 0.1, "left of"),
        (0.2, 0.1, "right of"),
        (0.1, -0.2, "above"),
        (0.1, 0.2, "below"),
        # On the diagonals sg2im's comparisons decide; 1/8 and 1/2 have no rounding.
        (-0.125, -0.125, "left of"),
        (-0.125, 0.125, "left of"),
        (0.125, -0.125, "right of"),
        (0.125, 0.125, "below"),
        (0.0, 0.0, "right of"),
    ],
)
def test_a_direction_is_that_of_the_subject_seen_from_the_object(dx, dy, predicate):
    assert predicate_of(around(0.5 + dx, 0.5 + dy), around(0.5, 0.5)) == predicate


def test_containment_comes_before_direction_and_is_strict():
    large, small = at(0.0, 0.0, 1.0, 1.0), at(0.7, 0.4, 0.9, 0.6)
    assert predicate_of(large, small) == "surrounding"
    assert predicate_of(small, large) == "inside"

    touching = at(0.7, 0.4, 1.0, 0.6)
    assert predicate_of(large, touching) == "left of"
    assert predicate_of(touching, large) == "right of"


def test_edges_that_are_equal_in_single_precision_are_equal():
    large, small = at(0.0, 0.0, 0.1 + 0.2, 1.0), at(0.1, 0.4, 0.3, 0.6)
    assert large.box.x1 > small.box.x1
    assert predicate_of(large, small) != "surrounding"


def test_a_scene_says_of_each_pair_what_holds_from_its_subject_to_its_object():
    scene = scene_of(annotated())
    assert scene.relations
    for subject, predicate, object in scene.relations:
        assert predicate == predicate_of(scene.objects[subject], scene.objects[object])


def test_directions_are_told_from_the_masks_and_not_from_the_boxes():
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 0] = 1  # all of it at the left edge
    wide = (0.0, 0.0, 1.0, 0.5)
    assert predicate_of(at(*wide), around(0.4, 0.25)) == "surrounding"
    edge = around(0.4, 0.5)
    assert predicate_of(at(*wide), edge) == "above"
    assert predicate_of(at(*wide, mask), edge) == "left of"
    assert predicate_of(at(*wide, np.zeros((16, 16), np.uint8)), edge) == "above"


def test_every_object_has_a_partner_that_is_not_itself():
    for image_id in range(200):
        pairs = drawn_pairs(image_id, 5)
        assert len(pairs) == 5
        for current, (subject, other) in enumerate(pairs):
            assert current in (subject, other)
            assert subject != other


def test_partners_and_directions_are_drawn_evenly():
    seen = np.zeros((4, 4), int)
    for image_id in range(3000):
        subject, other = drawn_pairs(image_id, 4)[0]
        seen[subject, other] += 1
    drawn = [*seen[0, 1:], *seen[1:, 0]]  # three partners, two directions
    assert sum(drawn) == 3000
    assert min(drawn) > 430
    assert max(drawn) < 570


def test_a_lone_object_has_no_relation():
    assert drawn_pairs(3, 1) == []
    assert scene_of(annotated(boxes=((0, 0, 20, 20),))).relations == ()


def test_a_graph_depends_on_its_photo_alone():
    photos = [annotated(i) for i in (7, 8, 2**46)]
    there = [scene_of(p).relations for p in photos]
    back = [scene_of(p).relations for p in reversed(photos)]

    assert there == back[::-1]
    assert len(set(there)) == 3
    moved = replace(photos[0], photo=replace(photos[0].photo, file="val2017/b.jpg", split="val"))
    assert scene_of(moved).relations == there[0]


def test_the_draw_of_a_known_photo_is_frozen():
    assert drawn_pairs(25, 5) == FROZEN_25


FROZEN_25 = [(0, 3), (1, 2), (2, 3), (3, 0), (4, 0)]


def test_boxes_are_shares_of_the_photo_and_end_at_its_edge():
    scene = scene_of(annotated(boxes=((10, 15, 20, 15), (-4, -3, 48, 36))))

    assert scene.objects[0].box == Box(0.25, 0.5, 0.75, 1.0)
    assert scene.objects[1].box == Box(0.0, 0.0, 1.0, 1.0)
    assert scene.patch_ids == (7 << 16, 7 << 16 | 1)


# Masks


def mask_over_box(segmentation, width, height, box_px):
    (mask,) = masks_over_boxes([segmentation], [box_px], width, height)
    return mask


def drawing():
    """(H, W): a corner and a bar inside BOX, and something outside it."""
    pixels = np.zeros((H, W), np.uint8)
    pixels[4:12, 8:16] = 1
    pixels[16:18, 8:24] = 1
    pixels[25:, 30:] = 1
    return pixels


def cut_out():
    return drawing()[4:20, 8:24]


def plain_runs(pixels):
    """COCO's uncompressed form: lengths of zeros and ones in turn, column by column."""
    runs, value = [0], 0
    for pixel in pixels.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": list(pixels.shape), "counts": runs}


def packed_runs(pixels):
    runs = coco_mask.encode(np.asfortranarray(pixels))
    return {"size": list(pixels.shape), "counts": runs["counts"].decode("ascii")}


@pytest.mark.parametrize("form", [plain_runs, packed_runs])
def test_runs_are_cut_at_the_box_one_cell_a_pixel(form):
    assert (mask_over_box(form(drawing()), W, H, BOX) == cut_out()).all()


def test_polygons_are_joined():
    corner, bar = [8, 4, 16, 4, 16, 12, 8, 12], [8, 16, 24, 16, 24, 18, 8, 18]
    assert (mask_over_box([corner, bar], W, H, BOX) == cut_out()).all()


def test_a_large_mask_is_sampled_without_antialiasing():
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, 1::4] = 1  # a cell lies between the second and third of four pixels,
    pixels[:, 2::4] = 1  # so that it sees these two alone
    mask = mask_over_box(plain_runs(pixels), 64, 64, (0, 0, 64, 64))
    assert mask is not None
    assert mask.all()


def test_half_covered_is_not_covered():
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:, ::2] = 1
    mask = mask_over_box(plain_runs(pixels), 32, 32, (0, 0, 32, 32))
    assert mask is not None
    assert not mask.any()


def test_a_box_thinner_than_a_pixel_takes_one():
    mask = mask_over_box(plain_runs(np.ones((H, W), np.uint8)), W, H, (8.1, 4, 0.2, 16))
    assert mask is not None
    assert mask.shape == (16, 16)
    assert mask.any()


def test_beyond_the_edge_a_box_is_not_taken_for_the_other_side():
    pixels = np.zeros((H, W), np.uint8)
    pixels[:, :12] = 1
    mask = mask_over_box(plain_runs(pixels), W, H, (-4, 0, 16, 16))  # -4 counts from the end
    assert mask is not None
    assert mask.all()
    outside = mask_over_box(plain_runs(pixels), W, H, (100, 0, 16, 16))
    assert outside is not None
    assert not outside.any()


@pytest.mark.parametrize("segmentation", [None, [], [[1, 1, 5, 5]]])
def test_what_covers_nothing_is_no_mask(segmentation):
    assert mask_over_box(segmentation, W, H, BOX) is None


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ("text", "neither a list of polygons nor run lengths"),
        ([[1, 2, 3, 4, 5, 6, 7]], "x and y in turn"),
        ([[1, 2, 3, 4, 5, "6"]], "not a number"),
        ([1, 2, 3, 4, 5, 6], "one flat list of numbers"),
        ([[1, float("nan"), 4, 4, 1, 4]], "reaches y = nan"),
        ([[1, 1, float("nan"), 4, 1, 4]], "reaches x = nan"),
        ([[1, 1, 4, -2 * H, 1, 4]], f"reaches y = {-2 * H}"),
        ([[1, 1, 4, 4, 10**400, 4]], "reaches x = 1000"),
        ([[1, 1, 1e30, 4, 1, 4]], "reaches x = 1e"),
        ({"counts": [W * H]}, "size is not the photo's"),
        ({"size": [W, H], "counts": [W * H]}, "size is not the photo's"),
        ({"size": [H, W], "counts": [W * H - 1]}, "cover 1,199 of 1,200"),
        ({"size": [H, W], "counts": [W * H + 1, -1]}, "neither a string nor a list"),
        ({"size": [H, W]}, "neither a string nor a list"),
        ({"size": [H, W], "counts": ""}, "not compressed run lengths"),
        ({"size": [H, W], "counts": "55"}, "cover 10 of 1,200"),
        ({"size": [H, W], "counts": "0PP"}, "not compressed run lengths"),
        ({"size": [H, W], "counts": "é0"}, "not compressed run lengths"),
        ({"size": [H, W], "counts": "ooooooo0"}, "longer than any photo"),
        ({"size": [H, W], "counts": "@"}, "negative run"),
    ],
)
def test_a_malformed_segmentation_never_reaches_the_decoder(segmentation, words):
    with pytest.raises(ValueError, match=r"^(it|a polygon)") as caught:
        usable_segmentation(segmentation, W, H)
    assert words in str(caught.value)


def by_the_book(pixels, box_px):
    """sg2im's recipe on a whole drawing: round, cut, let every cell weigh every pixel."""
    x, y, width, height = box_px
    left, top = max(round(x), 0), max(round(y), 0)
    right, bottom = max(left + 1, round(x + width)), max(top + 1, round(y + height))
    part = pixels[top:bottom, left:right].astype(float)

    def weights(length):
        centres = (np.arange(16) + 0.5) * length / 16 - 0.5
        return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(length)))

    return weights(part.shape[0]) @ part @ weights(part.shape[1]).T > 128 / 255


def test_masks_of_any_drawing_over_any_box_are_sg2ims():
    rng = np.random.default_rng(0)
    boxes = (
        (0, 0, 50, 3),
        (-3.5, -2, 40, 30),
        (7, 5, 200, 200),
        (0.5, 1.5, 17, 33),
        (90, 90, 1, 1),
    )
    for fraction in (0, 0.02, 0.5, 0.9, 1):
        for height, width in ((1, 1), (3, 50), (200, 300)):
            pixels = (rng.random((height, width)) < fraction).astype(np.uint8)
            for form, box in product((plain_runs, packed_runs), boxes):
                mask = mask_over_box(form(pixels), width, height, box)
                assert (mask == by_the_book(pixels, box)).all()


def test_masks_of_a_photo_are_those_of_its_objects_taken_alone():
    rng = np.random.default_rng(1)
    drawings = [rng.random((H, W)) < fraction for fraction in (0.5, 0.1, 1, 0, 0.9)]
    for pixels in drawings[::2]:  # ends in a run of ones, others of zeros: odd and even numbers
        pixels[-1, -1] = True
    forms = (packed_runs, plain_runs, packed_runs, packed_runs, plain_runs)
    shapes = [form(p.astype(np.uint8)) for form, p in zip(forms, drawings, strict=True)]
    shapes[2:2] = [None, [[8, 4, 16, 4, 16, 12, 8, 12]]]
    boxes = [BOX, (0, 0, W, H), BOX, (3, 2, 30, 20), (100, 0, 16, 16), (5, 5, 9, 1), BOX]
    for count in (0, 1, len(shapes)):
        together = masks_over_boxes(shapes[:count], boxes[:count], W, H)
        alone = [mask_over_box(s, W, H, b) for s, b in zip(shapes[:count], boxes, strict=False)]
        assert [m is None for m in together] == [m is None for m in alone]
        assert np.array_equal(
            [m for m in together if m is not None], [m for m in alone if m is not None]
        )


def test_a_malformed_segmentation_is_named_with_its_photo_and_object():
    photo = annotated()
    broken = replace(photo.objects[1], segmentation={"size": [H, W], "counts": [3]})
    with pytest.raises(DatasetError, match=r"photo 7 \(train2017/a.jpg\), object 1 \('c1'\)"):
        scene_of(replace(photo, objects=(photo.objects[0], broken)))


def test_run_lengths_cut_short_do_not_go_on_in_the_next_objects():
    whole = packed_runs(drawing())
    short = {**whole, "counts": whole["counts"][:-1] + "P"}  # says that another character follows
    photo = annotated()
    objects = [
        replace(o, segmentation=s)
        for o, s in zip(photo.objects, [whole, short, whole], strict=False)
    ]
    with pytest.raises(DatasetError, match=r"object 1 \('c1'\).*not compressed run lengths"):
        scene_of(replace(photo, objects=tuple(objects)))
