"""The page and the lines: self-contained, bounded, true to the bank, safe whatever it says."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bank.bank import Bank
from bank.contents import write_vocabulary
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import read_manifest, write_manifest
from bank.statistics import collect_statistics
from bank.table import write_table
from bank.verify import verify
from jobs.inspect_bank import InspectBank, main
from jobs.show import bank_page
from jobs.show.bank_page import ACROSS, CELL, show_categories, tiled
from jobs.stages import cluster
from pipeline.errors import UserError
from pipeline.scene import Vocabulary

HOSTILE = "</script><script>alert(1)</script> \"x' onload=y"


class Tags(HTMLParser):
    """Every start tag with its attributes, and what stands inside `script`."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.lasttag == "script" and self.scripts[-1] == "":
            self.scripts[-1] = data


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    return tags


@pytest.fixture
def bank(toy_bank, tmp_path):
    return shutil.copytree(toy_bank, tmp_path / "bank")


@pytest.fixture(scope="module")
def page(toy_bank, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    main(InspectBank(bank=toy_bank, out=out))
    return out.read_text("utf-8")


def changed(bank: Path, column: str, values: list[str]) -> None:
    """Write another column into patches.arrow, and the manifest to match."""
    with pa.memory_map(str(bank / "patches.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    at = table.schema.get_field_index(column)
    write_table(bank / "patches.arrow", table.set_column(at, column, pa.array(values)))
    accepted(bank, "patches.arrow")


def accepted(bank: Path, *names: str) -> None:
    """Record files as they are now."""
    manifest = read_manifest(bank)
    files = {**manifest.files, **{name: file_digest(bank / name) for name in names}}
    object.__setattr__(manifest, "files", files)
    write_manifest(bank, manifest)


def test_the_numbers_are_printed_in_a_few_lines(bank, capsys):
    main(InspectBank(bank=bank))
    lines = capsys.readouterr().out.splitlines()
    opened = Bank.open(bank)
    assert len(lines) == 12
    assert f"{len(opened):,} patches of" in lines[0]
    assert "train " in lines[0]
    counts = Counter(opened.contents.strings("category"))
    name, most = counts.most_common(1)[0]
    assert lines[1].startswith(f"by category: {name} {most}, ")
    assert lines[1].endswith(f"and {len(counts) - 8} more")
    assert "px, " in lines[2]
    assert lines[3].startswith("masks cover: ")
    assert lines[4].startswith("licences: cc")
    assert "15 of 15 categories exact" in lines[9]
    assert lines[10] == "left out: none"
    assert lines[11].startswith(f"{bank}/report.html (")


def test_shares_of_masks_are_in_the_lines_and_on_the_page(toy_bank, tmp_path, capsys):
    out = tmp_path / "report.html"
    main(InspectBank(bank=toy_bank, out=out))
    bank = Bank.open(toy_bank)
    shares = bank.quality(bank.patch_ids).mask_share
    tenth, median, most = (f"{100 * q:.1f} %" for q in np.quantile(shares, (0.1, 0.5, 0.9)))
    assert capsys.readouterr().out.splitlines()[3] == (
        f"masks cover: median {median} of the box (10 % under {tenth}, 10 % over {most}); "
        f"unknown for 0 patches"
    )
    page = out.read_text()
    row = "".join(f'<td class="n">{value}</td>' for value in (tenth, median, most, "0"))
    assert f"<tr>{row}</tr>" in page
    assert '<option value="mask">' in page
    names = np.array(bank.contents.strings("category"))
    articles = [a for tag, a in parsed(page).tags if tag == "article"]
    for article in articles:
        share = np.median(shares[names == article["data-name"]])
        assert article["data-mask"] == f"{share:.4f}"
        assert f"<dt>mask share</dt><dd>{100 * share:.1f} %</dd>" in page


def test_unknown_shares_of_masks_are_said_to_be_unknown(bank, capsys):
    manifest = read_manifest(bank)
    files = {path: d for path, d in manifest.files.items() if path != "quality.arrow"}
    write_manifest(bank, replace(manifest, files=files))
    main(InspectBank(bank=bank))
    line = "masks cover: unknown for every patch"
    assert capsys.readouterr().out.splitlines()[3] == line
    page = (bank / "report.html").read_text()
    assert "How much of their boxes the objects cover is unknown" in page
    assert "mask share" not in page


def test_the_page_needs_no_other_file_and_lets_none_in(page):
    tags = parsed(page)
    for tag, attributes in tags.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith(("#", "http://", "https://"))
    assert "@import" not in page
    assert "url(" not in page
    policy = next(a["content"] for _, a in tags.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_part_is_there_and_every_inner_link_leads_somewhere(page):
    tags = parsed(page).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    parts = ("sizes", "licences", "duplicates", "candidates", "failures", "manifest", "categories")
    for part in parts:
        assert f"part.{part}" in ids
    links = [a["href"] for tag, a in tags if tag == "a" and a["href"].startswith("#")]
    assert {link[1:].replace("%20", " ") for link in links} <= set(ids)
    assert len(links) > 7


def test_a_category_is_one_article_with_one_lazy_picture_and_a_link_by_its_name(page, toy_bank):
    bank = Bank.open(toy_bank)
    names = set(bank.contents.strings("category"))
    tags = parsed(page).tags
    articles = [a for tag, a in tags if tag == "article"]
    assert {a["id"] for a in articles} == {name.replace(" ", "_") for name in names}
    assert {a["data-name"] for a in articles} == names
    counts = [int(a["data-patches"]) for a in articles]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == len(bank)
    pictures = [a for tag, a in tags if tag == "img"]
    assert len(pictures) == len(names)
    assert all(a["loading"] == "lazy" for a in pictures)
    assert all(a["alt"] and a["width"] and a["height"] for a in pictures)


def test_a_sheet_shows_the_categorys_own_patches_and_says_whose_they_are(page, toy_bank):
    bank = Bank.open(toy_bank)
    tags = parsed(page)
    articles = [a["data-name"] for tag, a in tags.tags if tag == "article"]
    pictures = [a for tag, a in tags.tags if tag == "img"]
    credits = [json.loads(text) for text in tags.scripts[:-1]]
    assert len(credits) == len(articles) == len(pictures)
    for name, picture, rows in zip(articles, pictures, credits, strict=True):
        ids = np.array([int(patch) for patch, *_ in rows])
        assert np.all(np.diff(ids) > 0)
        credits = bank.credits(ids.tolist())
        assert {row["category"] for row in credits} == {name}
        assert [photo for _, photo, *_ in rows] == [row["file"] for row in credits]
        with Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",")[1]))) as image:
            shown = np.asarray(image).astype(float)
        wanted = bank.patches(ids).astype(float)
        for n, patch in enumerate(wanted):
            y, x = n // ACROSS * CELL, n % ACROSS * CELL
            assert np.abs(shown[y : y + CELL, x : x + CELL] - patch).mean() < 12


def test_names_files_and_reasons_of_a_dataset_cannot_become_code(bank):
    names = Bank.open(bank).contents.strings("category")
    renamed = [HOSTILE if name == names[0] else name for name in names]
    changed(bank, "category", renamed)
    changed(bank, "photo_file", [HOSTILE] * len(names))
    changed(bank, "source_url", ["javascript:alert(1)"] * len(names))
    changed(bank, "licence", ["javascript:alert(2)" + HOSTILE] * len(names))
    row = {"image_id": 1, "object_index": None, "reason": HOSTILE, "detail": HOSTILE}
    (bank / "failures.jsonl").write_text(json.dumps(row) + "\n")
    accepted(bank, "failures.jsonl")
    main(InspectBank(bank=bank))
    page = (bank / "report.html").read_text()
    tags = parsed(page)
    assert "<script>alert" not in page
    assert len(tags.scripts) == len([1 for tag, _ in tags.tags if tag == "img"]) + 1
    assert not any(key.startswith("on") for _, a in tags.tags for key in a)
    assert not any("javascript:" in a.get("href", "") for _, a in tags.tags)
    assert {json.loads(text)[0][3] for text in tags.scripts[:-1]} == {""}
    shown = [a for tag, a in tags.tags if tag == "article" and a["data-name"] == HOSTILE.lower()]
    assert len(shown) == 1
    assert " " not in shown[0]["id"]


def test_only_web_addresses_are_followed(bank):
    count = len(Bank.open(bank))
    changed(bank, "source_url", ["https://example.org/photo"] * count)
    main(InspectBank(bank=bank))
    scripts = parsed((bank / "report.html").read_text()).scripts[:-1]
    assert {json.loads(text)[0][3] for text in scripts} == {"https://example.org/photo"}


def test_pictures_are_bounded_however_many_categories_there_are(bank, monkeypatch):
    opened = Bank.open(bank)
    statistics = collect_statistics(opened)
    most = max(c.patches for c in statistics.categories)

    def sizes() -> list[int]:
        shown = show_categories(opened, statistics)
        return [len(c.sheet.credits) if c.sheet else 0 for c in shown]

    assert max(sizes()) == min(most, bank_page.MOST_PER_CATEGORY)
    monkeypatch.setattr(bank_page, "MOST_PICTURES", 3 * 12)
    assert sizes() == [12, 12, 12] + [0] * 12
    monkeypatch.setattr(bank_page, "MOST_PICTURES", 7200)
    monkeypatch.setattr(bank_page, "MOST_CATEGORIES", 4)
    assert len(sizes()) == 4
    monkeypatch.setattr(bank_page, "MOST_BYTES", 100_000)
    shown = [c.sheet for c in show_categories(opened, statistics) if c.sheet]
    assert 0 < sum(len(sheet.picture.url) for sheet in shown) <= 100_000
    assert len(shown) < 4


def test_what_the_page_leaves_out_it_says(bank, monkeypatch):
    monkeypatch.setattr(bank_page, "MOST_CATEGORIES", 4)
    monkeypatch.setattr(bank_page, "MOST_PICTURES", 24)
    main(InspectBank(bank=bank))
    page = (bank / "report.html").read_text()
    assert "Only the 2 most frequent have a sheet" in page
    assert "Not listed: 11 rarer categories" in page


def test_long_texts_are_cut(bank):
    count = len(Bank.open(bank))
    changed(bank, "photo_file", ["f" * 100_000] * count)
    changed(bank, "category", [f"{n}" + "c" * 10_000 for n in range(count)])
    changed(bank, "licence", [f"{n} " + "l" * 100_000 for n in range(count)])
    main(InspectBank(bank=bank))
    assert (bank / "report.html").stat().st_size < 5_000_000


def test_empty_thin_and_approximate_categories_are_named(bank):
    words = Bank.open(bank).vocabulary
    write_vocabulary(
        bank / "vocabulary.json", Vocabulary((*words.objects, "unheard of"), words.predicates)
    )
    index = json.loads((bank / "index" / "index.json").read_text())
    index["categories"]["boat"]["recall"] = 0.9931
    (bank / "index" / "index.json").write_text(json.dumps(index))
    accepted(bank, "vocabulary.json", "index/index.json")
    main(InspectBank(bank=bank))
    page = (bank / "report.html").read_text()
    assert "<li>unheard of</li>" in page
    assert "approximate in 1 of 16 categories" in page
    assert page.count("0.9931") == 2
    thin = [c for c in collect_statistics(Bank.open(bank)).thin if c.name != "boat"]
    assert thin
    for category in thin:
        assert f">{category.name}</a>: {category.splits[0]}</li>" in page


def test_failures_and_settings_are_shown(bank):
    row = {"image_id": 7, "object_index": 2, "reason": "box_outside", "detail": "x < 0"}
    (bank / "failures.jsonl").write_text(3 * (json.dumps(row) + "\n"))
    accepted(bank, "failures.jsonl")
    main(InspectBank(bank=bank))
    page = (bank / "report.html").read_text()
    assert "photo 7, object 2: x &lt; 0" in page
    manifest = read_manifest(bank)
    assert manifest.content_digest in page
    assert manifest.derived_digest in page
    assert "recipe (" in page
    assert f'<td class="text">{manifest.versions["torch"]}</td>' in page
    assert "edits (" not in page


def test_what_was_done_to_a_finished_bank_is_shown(bank):
    manifest = read_manifest(bank)
    object.__setattr__(manifest, "edits", ({"removed": [7, 8]},))
    write_manifest(bank, manifest)
    main(InspectBank(bank=bank))
    page = (bank / "report.html").read_text()
    assert "edits (1)" in page
    assert "{&#34;removed&#34;: [7, 8]}" in page


def test_look_alikes_of_two_photos_are_shown_one_under_the_other(bank, monkeypatch):
    opened = Bank.open(bank)
    a, b = opened.patch_ids[0], opened.patch_ids[-1]
    monkeypatch.setattr(
        "bank.statistics.collect_statistics",
        lambda of, _: collect_statistics(of)._replace(pairs=((int(a), int(b)),) * 13),
    )
    main(InspectBank(bank=bank))
    tags = parsed((bank / "report.html").read_text())
    rows = [patch for patch, *_ in json.loads(tags.scripts[0])]
    assert rows[:24] == [str(a)] * 12 + [str(b)] * 12
    assert rows[24:] == [str(a), *[""] * 11, str(b), *[""] * 11]
    source = next(a["src"] for tag, a in tags.tags if tag == "img")
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
        assert np.asarray(image)[2 * CELL + 8 :, CELL + 8 :].min() > 240


def test_patches_of_another_size_fill_the_same_cells():
    white = np.full((ACROSS + 1, 16, 16, 3), 200, np.uint8)
    sheet = tiled(white)
    assert sheet.shape == (2 * CELL, ACROSS * CELL, 3)
    assert (sheet[CELL:, :CELL] == 200).all()
    assert (sheet[CELL:, CELL:] == 255).all()
    assert tiled(white[:2]).shape == (CELL, 2 * CELL, 3)


def test_the_page_is_the_same_every_time_and_the_bank_still_verifies(bank):
    main(InspectBank(bank=bank))
    first = (bank / "report.html").read_bytes()
    main(InspectBank(bank=bank))
    assert (bank / "report.html").read_bytes() == first
    assert verify(bank).damages == ()
    assert sorted(p.name for p in bank.iterdir() if "partial" in p.name) == []


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "jobs.inspect_bank", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_a_missing_bank_costs_one_line_and_exit_code_1(tmp_path):
    done = command(tmp_path / "nothing")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: there is no bank at .*\n", done.stderr)
    assert command("--nonsense").returncode == 2


def test_an_unfinished_or_damaged_bank_is_refused(bank):
    shard = next((bank / "patches").glob("val-*")) / "data.mdb"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BankError, match="is not as it was written"):
        main(InspectBank(bank=bank))
    assert not (bank / "report.html").exists()
    (bank / "manifest.json").unlink()
    with pytest.raises(BankError, match="manifest"):
        main(InspectBank(bank=bank))


def test_where_the_page_cannot_be_written_another_name_is_asked_for_before_the_work(
    bank, tmp_path, monkeypatch
):
    monkeypatch.setattr("bank.statistics.collect_statistics", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another file with --out"):
        main(InspectBank(bank=bank, out=tmp_path / "file" / "report.html"))
    with pytest.raises(UserError, match="name another file with --out"):
        main(InspectBank(bank=bank, out=tmp_path))


def test_a_scheduler_that_is_not_there_is_named(bank, monkeypatch):
    monkeypatch.setattr(cluster, "JOIN_S", 0.2)
    with pytest.raises(UserError, match="no Dask scheduler answers at 'nonsense://'"):
        main(InspectBank(bank=bank, scheduler="nonsense://"))
    assert not (bank / "report.html").exists()


def test_progress_goes_to_standard_error_alone(bank, capsys):
    main(InspectBank(bank=bank))
    printed = capsys.readouterr()
    assert "patches: " in printed.err
    assert "patch in" not in printed.out
