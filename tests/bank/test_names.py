import pytest

from bank.names import fault_of_names, is_part


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/etc/passwd", "begins at the root"),
        ("../x", "leads elsewhere"),
        ("scenes/../../x", "leads elsewhere"),
        ("scenes/..", "leads elsewhere"),
        ("./x", "leads elsewhere"),
        ("...", "leads elsewhere"),
        ("scenes\\..\\x", "has a '\\\\'"),
        ("C:x", "has a ':'"),
        ("pipe:cat x", "has a ':'"),
        ("scenes/pipe:cat", "has a ':'"),
        ("a*", "has a '*'"),
        ("a|b", "has a '|'"),
        ("a\nb", "has control characters"),
        ("a\x00b", "has control characters"),
        ("a\x1b[2J", "has control characters"),
        ("\ud800", "has control characters"),
        ("", "has an empty part"),
        ("a//b", "has an empty part"),
        ("a/", "has an empty part"),
        ("x.partial", "ends as what is not whole"),
        ("a" * 201, "is too long"),
        ("ü" * 101, "is too long"),
        ("/".join(["a" * 100] * 11), "is too long"),
    ],
)
def test_a_name_that_no_bank_has_is_refused(name, said):
    fault = fault_of_names(["patches.arrow", name])
    assert fault == f"it names a file {name[:100]!r}, which {said}"
    assert "\n" not in fault
    assert not is_part(name)


@pytest.mark.parametrize(
    "names",
    [
        ("scenes/a.tar", "scenes/A.tar"),
        ("straße", "STRASSE"),
        ("u\u0308", "ü"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("A/b", "a/B/c"),
        ("a", "a"),
    ],
)
def test_names_that_are_one_on_some_file_system_are_refused(names):
    assert fault_of_names(names) == (
        f"it names files {names[0]!r} and {names[1]!r}, which cannot both be there"
    )


def test_the_names_of_a_bank_are_fine():
    assert fault_of_names(["manifest.json", "a/b", "a/c", "scenes/train-00000.tar", "ü x"]) is None
    assert is_part("train-00000")
    for other in ("a/b", None, 3, ".."):
        assert not is_part(other)
