import pytest

from pipeline.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "photo", "0 photos"),
        (1, "patch", "1 patch"),
        (2, "patch", "2 patches"),
        (14149, "category", "14,149 categories"),
        (1, "category", "1 category"),
        (3, "box", "3 boxes"),
        (3, "tray", "3 trays"),
    ],
)
def test_a_number_and_its_noun_agree(number, noun, said):
    assert counted(number, noun) == said
