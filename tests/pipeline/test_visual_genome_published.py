"""The reader answers as the published rules do, written once more here as plainly as possible."""

import json
import random
from collections import Counter

import pytest

from pipeline.data_folder import DataFolder
from pipeline.visual_genome.reader import VisualGenomeRules, read_visual_genome

OBJECT_ALIASES = [  # the last line overrules the first
    "jar,jars,pot",
    "tree,trees,big tree",
    "man,men,guy",
    "car,cars",
    "vase,pot",
]
PREDICATE_ALIASES = ["on,is on,on top of", "near,next to,by", "wearing,wears", "at,by"]
WORDS = [f"word{i}" for i in range(40)]
NAMES = ["tree", "trees", "big tree", "man", "Man", "guy", "car", "cars", "jar", "pot", *WORDS]
PREDICATES = [
    "on",
    "ON",
    "is on",
    " near ",
    "next to",
    "Next To",
    "by",
    "wears",
    "has",
    "HAS",
    "of",
]
WEIGHTS = [30, 25, 20, 18, 16, 14, 12, 10, 8, 6, *[2] * len(WORDS)]
COLOURS = ["red", "Red", "green", "tall", "wet", *WORDS[:4]]


class Files:
    """A few hundred photos, annotated by people who do not agree on how."""

    def __init__(self, seed, num_photos=320):
        self.random = random.Random(seed)
        self.ids = self.random.sample(range(1, 10_000), num_photos)
        self.next_object = 1
        self.image_data, self.objects, self.relationships, self.attributes = [], [], [], []
        for image_id in self.ids:
            self.annotate(image_id)
        for image_id in self.random.sample(self.ids, 12):  # listed twice
            self.annotate(image_id, again=True)
        for entries in (self.image_data, self.objects, self.relationships, self.attributes):
            self.random.shuffle(entries)
            del entries[:3]  # missing here, and others there
        del self.relationships[7]["image_id"]
        self.splits = {"train": self.ids[:200], "val": self.ids[200:260], "test": self.ids[260:]}

    def annotate(self, image_id, again=False):
        pick = self.random
        if not again:
            side = pick.choice([199, 200, 200, 201, 480, 480, 640])
            url = f"https://example.org/data/VG_100K/{image_id}.jpg"
            self.image_data.append({"image_id": image_id, "width": side, "height": 300, "url": url})
        objects = [
            self.listed_object() for _ in range(pick.choice([2, 3, 4, 5, 8, 12, 20, 31, 40]))
        ]
        if len(objects) > 3 and pick.random() < 0.3:
            objects[-1]["object_id"] = objects[pick.randrange(3)]["object_id"]
        self.objects.append({"image_id": image_id, "objects": objects})
        ids = [o["object_id"] for o in objects]
        relations = [self.relation(ids) for _ in range(pick.choice([0, 1, 2, 4, 9, 25, 70, 90]))]
        self.relationships.append({"image_id": image_id, "relationships": relations})
        described = [self.described(number) for number in pick.choices(ids, k=len(ids))]
        self.attributes.append({"image_id": image_id, "attributes": described})

    def listed_object(self):
        self.next_object += 1
        width, height = (self.random.choice([31, 32, 32, 33, 80]) for _ in "wh")
        num_names = self.random.choice([0, 1, 1, 1, 2, 3])
        names = self.random.choices(NAMES, WEIGHTS, k=num_names)
        x, y = self.random.randrange(-5, 200), self.random.randrange(200)
        box = {"x": x, "y": y, "w": width, "h": height}
        return {"object_id": self.next_object, "names": names, "merged_object_ids": [], **box}

    def relation(self, ids):
        subject, object = (
            self.random.choice([*ids, *ids, *ids, 10**9]) for _ in ("subject", "object")
        )
        return {
            "relationship_id": 1,
            "predicate": self.random.choice(PREDICATES),
            "subject": {"object_id": subject, "name": "?"},
            "object": {"object_id": object, "merged_object_ids": []},
        }

    def described(self, object_id):
        attributes = self.random.choices(COLOURS, k=self.random.choice([1, 2, 3, 45]))
        return {"object_id": object_id} | (
            {"attributes": attributes} if self.random.random() < 0.7 else {}
        )

    def write(self, folder):
        (folder / "VG_100K").mkdir()
        for name in ("image_data", "objects", "relationships", "attributes"):
            (folder / f"{name}.json").write_text(json.dumps(getattr(self, name)), "utf-8")
        (folder / "vg_splits.json").write_text(json.dumps(self.splits), "utf-8")
        (folder / "object_alias.txt").write_text("\n".join(OBJECT_ALIASES), "utf-8")
        (folder / "relationship_alias.txt").write_text("\n".join(PREDICATE_ALIASES), "utf-8")
        return DataFolder(folder)


class Published:
    """The published rules, whole files as dictionaries."""

    def __init__(self, files, rules):
        self.rules = rules
        sizes = {e["image_id"]: min(e["width"], e["height"]) for e in files.image_data}
        self.split_of = {
            number: split
            for split, numbers in files.splits.items()
            for number in numbers
            if sizes.get(number, 0) >= rules.min_photo_px
        }
        self.objects = self.by_photo(files.objects, "objects")
        self.relationships = self.by_photo(files.relationships, "relationships")
        self.attributes = self.by_photo(files.attributes, "attributes")
        self.alias = self.aliases(OBJECT_ALIASES)
        self.names = self.frequent_names(files)
        self.attribute_names = self.frequent_attributes()
        self.table = self.table_of_objects()
        self.predicates = self.frequent_predicates()

    def by_photo(self, entries, key):
        found = {}
        for entry in entries:
            if entry.get("image_id") in self.split_of:
                found[entry["image_id"]] = json.loads(json.dumps(entry[key]))
        return found

    def aliases(self, lines):
        table = {}
        for line in lines:
            for name in line.split(","):
                table[name] = line.split(",")[0]
        return table

    def train(self, by_photo):
        return [v for number, v in by_photo.items() if self.split_of[number] == "train"]

    def frequent_names(self, files):
        counts = Counter()
        for objects in self.train(self.objects):
            for object_ in objects:
                names = []
                for name in object_["names"]:
                    name = self.alias.get(name, name)
                    if name not in names:
                        names.append(name)
                counts.update(names)
        self.name_counts = counts
        return [n for n, count in counts.most_common() if count >= self.rules.min_object_count]

    def frequent_attributes(self):
        counts = Counter()
        for objects in self.train(self.attributes):
            for object_ in objects:
                counts.update(set(object_.get("attributes", [])))
        self.attribute_counts = counts
        return {a for a, count in counts.items() if count >= self.rules.min_attribute_count}

    def table_of_objects(self):
        table = {}
        for objects in self.objects.values():
            for object_ in objects:
                known = [self.alias.get(n, n) for n in object_["names"]]
                known = [n for n in known if n in self.names]
                least = self.rules.min_box_px
                if known and object_["w"] >= least and object_["h"] >= least:
                    box = tuple(object_[side] for side in "xywh")
                    table[object_["object_id"]] = (known[0], box)
        return table

    def frequent_predicates(self):
        alias, counts = self.aliases(PREDICATE_ALIASES), Counter()
        for number, relations in self.relationships.items():
            mended = self.rules.predicate_names == "mended"
            for relation in relations:
                ends = relation["subject"]["object_id"], relation["object"]["object_id"]
                if not (ends[0] in self.table and ends[1] in self.table):
                    continue
                plain = relation["predicate"].lower().strip()
                if self.split_of[number] == "train":
                    relation["predicate"] = alias.get(plain, plain)
                    counts[relation["predicate"]] += 1
                elif mended:
                    relation["predicate"] = alias.get(plain, plain)
        self.predicate_counts = counts
        return [p for p, count in counts.items() if count >= self.rules.min_relation_count]

    def photos(self):
        """(split, photo's id) -> objects and relationships of those that pass, by rising id."""
        passed = {}
        splits = ["train", "val", "test"]
        order = sorted(self.split_of, key=lambda n: (splits.index(self.split_of[n]), n))
        for number in order:
            objects, position = [], {}
            for place, object_ in enumerate(self.objects.get(number, [])):
                if object_["object_id"] in self.table:
                    position[object_["object_id"]] = place
                    name, box = self.table[object_["object_id"]]
                    objects.append((place, name, box, self.attributes_of(number, object_)))
            relations = [
                (position[s], relation["predicate"], position[o])
                for relation in self.relationships.get(number, [])
                if (s := relation["subject"]["object_id"]) in position
                and (o := relation["object"]["object_id"]) in position
                and relation["predicate"] in self.predicates
            ]
            if 3 <= len(objects) <= 30 and 1 <= len(relations) <= 30:
                passed[self.split_of[number], number] = objects, relations
        return passed

    def attributes_of(self, number, object_):
        found = []
        for described in self.attributes.get(number, []):
            if described["object_id"] == object_["object_id"]:
                found = described.get("attributes", [])
        return tuple([a for a in found if a in self.attribute_names][:30])


def _rules(files, **more):
    """Thresholds that are some name's own count, so that one more or less would be seen."""
    every = Published(files, VisualGenomeRules(min_object_count=1, min_relation_count=1, **more))
    rules = VisualGenomeRules(
        min_object_count=every.name_counts.most_common()[29][1],
        min_attribute_count=every.attribute_counts.most_common()[6][1],
        **more,
    )
    every = Published(files, VisualGenomeRules(**{**rules.__dict__, "min_relation_count": 1}))
    least = every.predicate_counts.most_common()[-2][1]
    return VisualGenomeRules(**{**rules.__dict__, "min_relation_count": least})


@pytest.fixture(scope="module")
def files():
    return Files(seed=1)


@pytest.fixture(scope="module", params=["sg2im", "mended"])
def answers(request, files, tmp_path_factory):
    rules = _rules(files, predicate_names=request.param)
    folder = files.write(tmp_path_factory.mktemp("vg"))
    return Published(files, rules), read_visual_genome(folder, rules)


def test_the_vocabulary_is_the_published_one_in_its_order(answers):
    published, found = answers
    kept = [published.name_counts[n] for n in published.names]
    assert len(kept) >= 30
    assert len(set(kept)) < len(kept)  # ties
    assert kept[-1] == published.rules.min_object_count
    assert published.rules.min_relation_count in published.predicate_counts.values()
    assert len(published.predicates) < len(published.predicate_counts)
    assert found.vocabulary.objects == ("__image__", *published.names)
    assert found.vocabulary.predicates == ("__in_image__", *published.predicates)


def test_the_same_photos_pass_in_each_split(answers):
    published, found = answers
    passed = published.photos()
    assert [(p.photo.split, p.photo.image_id) for p in found.photos] == list(passed)
    assert len({split for split, _ in passed}) == 3
    assert len(passed) > 60
    counts = found.protocol.counts
    for split in ("train", "val", "test"):
        of_split = [passed[key] for key in passed if key[0] == split]
        assert counts["objects_passed"][split] == sum(len(o) for o, _ in of_split)
        assert counts["relations_passed"][split] == sum(len(r) for _, r in of_split)


def test_a_scene_has_related_objects_first_then_others_and_what_holds_between_them(answers):
    published, found = answers
    seen = Counter()
    passed = published.photos()
    for photo in found.photos:
        objects, relations = passed[photo.photo.split, photo.photo.image_id]
        expected = {place: rest for place, *rest in objects}
        drawn = [o.object_index for o in photo.objects]
        assert drawn == sorted(set(drawn))
        assert [[o.category, o.box_px, o.attributes] for o in photo.objects] == [
            expected[place] for place in drawn
        ]
        related = {end for s, _, o in relations for end in (s, o)}
        if len(related) > 9:
            assert len(drawn) == 10
            assert set(drawn) <= related
        else:
            assert related <= set(drawn)
            assert len(drawn) == min(9, len(objects))
        assert [tuple(r) for r in photo.relations] == [
            (s, p, o) for s, p, o in relations if {s, o} <= set(drawn)
        ]
        seen["related"] += len(related) > 10
        seen["filled"] += len(related) < 9 < len(objects)
        seen["attributes"] += any(len(o.attributes) == 30 for o in photo.objects)
    assert all(seen[what] for what in ("related", "filled", "attributes"))
