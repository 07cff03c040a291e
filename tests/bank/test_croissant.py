"""What is said of a bank to dataset hubs: valid, the same every time, and true."""

import json
import shutil
import socket
import time

import mlcroissant
import pyarrow as pa
import pytest

from bank.bank import Bank
from bank.croissant import describe, write_croissant
from bank.files import file_digest
from bank.manifest import read_manifest
from bank.quality import QUALITY
from bank.table import PATCHES

# Of the library under the validator.
pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")


@pytest.fixture
def bank(toy_bank, tmp_path):
    return shutil.copytree(toy_bank, tmp_path / "bank")


@pytest.fixture
def written(bank):
    write_croissant(bank, read_manifest(bank))
    return json.loads((bank / "croissant.json").read_text("utf-8"))


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_validator_finds_no_error_and_misses_only_the_date(bank, written, offline):
    dataset = mlcroissant.Dataset(str(bank / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    (warning,) = issues.warnings
    assert "datePublished" in warning
    records = dataset.metadata.record_sets[0]
    assert len(records.fields) == len(PATCHES)


def test_the_validator_would_find_an_error(written, offline):
    written["recordSet"][0]["field"][3]["source"]["fileObject"]["@id"] = "nothing.arrow"
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(jsonld=written)


def test_it_is_the_same_wherever_and_whenever_it_is_written(bank, written, tmp_path, monkeypatch):
    other = shutil.copytree(bank, tmp_path / "elsewhere" / "other name")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    manifest = read_manifest(other)
    turned = dict(reversed(manifest.files.items()))
    object.__setattr__(manifest, "files", turned)
    write_croissant(other, manifest)
    first, second = ((folder / "croissant.json").read_bytes() for folder in (bank, other))
    assert first == second
    assert str(tmp_path).encode() not in first


def test_a_build_leaves_the_file_that_its_manifest_gives(bank):
    built = (bank / "croissant.json").read_bytes()
    write_croissant(bank, read_manifest(bank))
    assert (bank / "croissant.json").read_bytes() == built


def test_every_file_of_the_bank_is_named_with_its_digest_and_size(bank, written):
    files = {f["@id"]: f for f in written["distribution"] if f["@type"] == "cr:FileObject"}
    assert files.keys() == read_manifest(bank).files.keys() - {"croissant.json"}
    for path, entry in files.items():
        assert entry["contentUrl"] == path
        assert entry["sha256"] == file_digest(bank / path).sha256
        assert entry["contentSize"] == f"{(bank / path).stat().st_size} B"
    assert files["patches.arrow"]["encodingFormat"] == "application/vnd.apache.arrow.file"


def test_shards_are_file_sets_whose_patterns_find_them(bank, written):
    sets = {f["@id"]: f for f in written["distribution"] if f["@type"] == "cr:FileSet"}
    files = read_manifest(bank).files
    for name in ("patches", "scenes"):
        found = {p.relative_to(bank).as_posix() for p in bank.glob(sets[name]["includes"])}
        assert found == {path for path in files if path.startswith(f"{name}/")}
        assert found


def test_columns_are_those_of_the_table_with_their_types(bank, written):
    records = written["recordSet"][0]
    types = {f["source"]["extract"]["column"]: f["dataType"] for f in records["field"]}
    kinds = {pa.string(): "sc:Text", pa.float32(): "sc:Float", pa.binary(32): "sc:Text"}
    table = Bank.open(bank).table
    assert types == {f.name: kinds.get(f.type, "sc:Integer") for f in table.schema}
    assert all(field["description"] for field in records["field"])


def test_the_optional_table_of_quality_is_described_where_it_is(toy_bank, tmp_path, offline):
    bank = shutil.copytree(toy_bank, tmp_path / "bank")
    write_croissant(bank, read_manifest(bank))
    dataset = mlcroissant.Dataset(str(bank / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    patches, quality = json.loads((bank / "croissant.json").read_text("utf-8"))["recordSet"]
    assert (patches["@id"], quality["@id"]) == ("patches_table", "quality_table")
    assert quality["key"] == {"@id": "quality_table/patch_id"}
    columns = {f["source"]["extract"]["column"]: f["dataType"] for f in quality["field"]}
    assert columns == {
        f.name: "sc:Float" if f.type == pa.float32() else "sc:Integer" for f in QUALITY
    }
    assert {f["source"]["fileObject"]["@id"] for f in quality["field"]} == {"quality.arrow"}
    assert all(field["description"] for field in quality["field"])


def test_licences_counts_and_digests_are_the_banks(bank, written):
    opened = Bank.open(bank)
    assert written["license"] == sorted(set(opened.contents.strings("licence")))
    assert opened.content_digest in written["description"]
    assert opened.manifest.derived_digest in written["description"]
    assert written["version"] == f"1.0.0+{opened.content_digest[:12]}"
    assert f"{len(opened):,} object patches" in written["description"]
    assert f"from {len(opened.contents.image_ids):,} photos" in written["description"]
    assert "2007.08513" in written["citeAs"]


def test_a_photo_without_licence_is_not_passed_over(bank):
    table = Bank.open(bank).table
    some = pa.array(["", *table.column("licence").to_pylist()[1:]])
    at = table.schema.get_field_index("licence")
    changed = table.set_column(at, "licence", some)
    with pa.ipc.new_file(bank / "changed.arrow", changed.schema) as file:
        file.write_table(changed)
    (bank / "changed.arrow").replace(bank / "patches.arrow")
    write_croissant(bank, read_manifest(bank))
    licences = json.loads((bank / "croissant.json").read_text())["license"]
    assert "not stated" in licences
    assert "" not in licences


def test_the_description_needs_no_bank_on_disk(toy_bank):
    value = describe(read_manifest(toy_bank), ["cc-by"])
    assert value["license"] == ["cc-by"]
    assert value["name"] == "RetrieveGAN patch bank of toy"
