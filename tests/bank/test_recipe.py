from dataclasses import replace
from pathlib import Path

import pytest

from bank.recipe import BankSettings, complete_recipe, folder_of, recipe_of
from pipeline.coco.reader import CocoRules
from pipeline.datasets import DatasetRules

SETTINGS = (
    BankSettings(dataset="coco"),
    BankSettings(dataset="vg"),
    BankSettings(dataset="toy"),
    BankSettings(dataset="toy", toy_format="vg"),
    BankSettings(dataset="toy", toy_photos=7000),
    BankSettings(dataset="toy", toy_format="vg", toy_photos=7000),
)


GIVEN = ("dataset", "toy_format", "toy_photos")


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_a_recipe_lacks_has_its_default(settings):
    recipe = recipe_of(settings)
    always = {name: recipe[name] for name in GIVEN if name in recipe}
    assert complete_recipe(always) == recipe


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_a_recipe_has_stays(settings):
    recipe = recipe_of(replace(settings, resizer="pillow", limit=7, encoder_steps=3), [5, 9])
    assert recipe["quarantine"] == [5, 9]
    assert complete_recipe(recipe) == recipe


def test_rules_that_were_asked_for_are_in_the_recipe():
    rules = DatasetRules(coco=CocoRules(edition="deprecated-40k"))
    recipe = recipe_of(BankSettings(dataset="coco", rules=rules))
    assert recipe["edition"] == "deprecated-40k"
    assert recipe["seed"] == 0
    assert {"rules", "toy_format", "toy_photos", "quarantine"}.isdisjoint(recipe)


def test_the_photos_of_a_bank_lie_where_its_build_looked_for_them():
    folders = [folder_of(recipe_of(settings)).as_posix() for settings in SETTINGS]
    sized = ["data/toy-7000", "data/toy-vg-7000"]
    assert folders == ["data/coco", "data/vg", "data/toy", "data/toy-vg", *sized]
    assert folder_of({"dataset": "toy"}) == Path("data/toy")  # of an earlier version


@pytest.mark.parametrize("recipe", [{}, {"dataset": "ade"}, {"dataset": "toy", "toy_format": "x"}])
def test_the_rules_of_an_unknown_dataset_are_not_made_up(recipe):
    complete = complete_recipe(recipe)
    assert complete.get("dataset") == recipe.get("dataset")
    assert complete["cooccurrence"] == "train"
    assert "edition" not in complete
