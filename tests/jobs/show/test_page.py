"""A page's templates escape what comes from files; where none can be written is said at once."""

from pathlib import Path

import pytest

from jobs.show.page import check_place, environment
from pipeline.errors import UserError


def test_a_name_cannot_become_markup():
    assert environment().from_string("{{ name }}").render(name="<script>") == "&lt;script&gt;"


def test_a_page_can_go_into_a_new_folder_and_over_a_page_that_is_left_as_it_is(tmp_path):
    page = tmp_path / "new" / "report.html"
    check_place(page)
    assert [*tmp_path.rglob("*")] == [page.parent]
    page.write_text("before")
    check_place(page)
    assert page.read_text() == "before"
    assert [*page.parent.iterdir()] == [page]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("{folder}", "Is a directory"),
        ("{folder}/file/report.html", "Not a directory|File exists"),
        ("/proc/self/report.html", ".*"),  # a folder that is there and takes no file, from root too
    ],
)
def test_where_no_page_can_be_written_is_refused(tmp_path, path, reason):
    (tmp_path / "file").touch()
    page = Path(path.format(folder=tmp_path))
    with pytest.raises(UserError, match=f"cannot write {page}: ({reason}); name another file"):
        check_place(page)
