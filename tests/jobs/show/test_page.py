"""A page's templates escape what comes from files."""

from jobs.show.page import environment


def test_a_name_cannot_become_markup():
    assert environment().from_string("{{ name }}").render(name="<script>") == "&lt;script&gt;"
