import shlex

import pytest

from pipeline.errors import UserError
from pipeline.licences import Accepted, short_name

BY = "http://creativecommons.org/licenses/by/2.0/"
NC_SA = "https://creativecommons.org/licenses/by-nc-sa/2.0/"


@pytest.mark.parametrize(
    ("licence", "short"),
    [
        (BY, "cc-by"),
        (NC_SA, "cc-by-nc-sa"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0"),
        ("http://creativecommons.org/publicdomain/mark/1.0/", "pdm"),
        ("http://flickr.com/commons/usage/", "http://flickr.com/commons/usage/"),
        ("", "unknown"),
    ],
)
def test_creative_commons_addresses_have_short_names(licence, short):
    assert short_name(licence) == short


def test_a_licence_is_accepted_by_short_name_or_address_and_no_other_is():
    for given in ("cc-by", "CC-BY", BY):
        accepted = Accepted([given])
        assert BY in accepted
        assert NC_SA not in accepted  # which begins alike
        assert "" not in accepted
    assert "" in Accepted(["unknown"])


def test_where_none_is_given_all_are_accepted():
    assert all(licence in Accepted([]) for licence in (BY, "", "anything"))


def test_a_licence_that_no_photo_has_is_refused_with_those_there_are():
    accepted = Accepted(["cc-by", "cc-bx"])
    with pytest.raises(UserError, match=r"cc-bx: no photo has it; give .*: cc-by \(2 photos\), "):
        accepted.check([BY, BY, ""])
    Accepted([]).check([])


@pytest.mark.parametrize(
    "stated", ["CC BY 4.0", " No known\n restrictions ", "it's mine", "\t", BY]
)
def test_what_the_refusal_lists_is_accepted_as_it_can_be_typed(stated):
    with pytest.raises(UserError) as refused:
        Accepted(["CC"]).check([stated])
    message = str(refused.value)
    assert "\n" not in message
    listed, _, _ = message.split("with spaces between: ")[1].partition(" (1 photo)")
    typed = Accepted(shlex.split(listed))
    typed.check([stated])
    assert stated in typed
