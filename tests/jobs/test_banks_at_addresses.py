"""Commands on a bank at an address: what they do with the one in the folder."""

import json
import re
import shutil
from pathlib import Path

import pytest

from bank.bank import Bank
from bank.errors import BankError
from bank.manifest import read_manifest
from jobs import evaluate, inspect_bank, report, sample, verify_bank
from jobs.edit_bank import EditBank
from jobs.show.options import Evaluate, SampleOptions
from jobs.stages.options import BuildBank
from model import checkpoint, train
from pipeline import fetch as fetching
from pipeline.options import parse
from tests.model.small_runs import losses_of, options_of
from tests.web_server import flips, serving, status

GRAPH = {"objects": ["sky-other", "grass", "tree"], "relationships": [[0, "above", 1]]}
SMALL = ("--recipe", "demo", "--steps", 2, "--batch-size", 4, "--device", "cpu")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "WAIT_S", 0.0)
    monkeypatch.setenv("RETRIEVEGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("graph.json").write_text(json.dumps(GRAPH))


@pytest.fixture
def web(toy_bank):
    with serving(toy_bank) as web:
        yield web


def mirror() -> Path:
    (folder,) = Path("cache/banks").iterdir()
    return folder


def trained(place: object, run: str, *more: object) -> Path:
    train.main(options_of("--bank", place, "--out", run, *SMALL, *more))
    return Path(run)


def scores(run: Path, capsys) -> str:
    capsys.readouterr()
    asked = ["--run", str(run), "--num", "5", "--scores", "retrieval", "--device", "cpu"]
    evaluate.main(parse(Evaluate, asked))
    return capsys.readouterr().out.replace(run.name, "RUN")


def image(run: Path) -> bytes:
    arguments = ["--run", str(run), "--graph", "graph.json", "--device", "cpu"]
    sample.main(parse(SampleOptions, arguments))
    return (run / "samples/graph/image-0.png").read_bytes()


@pytest.mark.parametrize("loader", ["stream", "resident"])
def test_a_run_of_a_bank_at_an_address_is_that_of_the_folder(web, toy_bank, capsys, loader):
    near = trained(toy_bank, "near", "--loader", loader)
    shutil.rmtree("cache", ignore_errors=True)
    digest = read_manifest(toy_bank).content_digest
    far = trained(f"{web.address}/", "far", "--loader", loader, "--digest", digest)
    assert losses_of(far) == losses_of(near)
    assert json.loads((far / "config.json").read_text())["bank"] == web.address
    shards = read_manifest(toy_bank).shards
    train_shards = [
        f"patches/{s}/data.mdb"
        for s in shards
        if s.startswith(("train", "val"))  # val: of grids
    ]
    asked = web.names()
    first_scene = min(asked.index(name) for name in asked if name.startswith("scenes/train"))
    assert {*train_shards} <= {*asked[:first_scene]}  # before the training begins
    assert image(far) == image(near)
    assert scores(far, capsys) == scores(near, capsys)
    report.main(report.ReportOptions(run=far, draws=1, device="cpu"))
    assert (far / "report.html").is_file()
    names = [name for name in web.names() if name != "manifest.json"]
    assert len(names) == len({*names})  # nothing came twice


def test_a_run_goes_on_where_its_bank_is_not_to_be_reached(web, toy_bank, capsys):
    far = trained(web.address, "far")
    before = image(far)
    bank = Bank.open(web.address)
    bank.files.fetch(bank.manifest.files)
    web.always = {name: status(503) for name in ("manifest.json", *read_manifest(toy_bank).files)}
    assert image(far) == before
    assert "the bank is taken as it was fetched to" in capsys.readouterr().err
    train.main(options_of("--resume", far, "--steps", 3))
    assert checkpoint.read_state(checkpoint.last(far)).step == 3


def test_a_run_opens_with_no_other_bank_at_its_address(web, toy_bank):
    far = trained(web.address, "far")
    config = json.loads((far / "config.json").read_text())
    (far / "config.json").write_text(json.dumps({**config, "bank_digest": "0" * 64}))
    for command in (lambda: image(far), lambda: train.main(options_of("--resume", far))):
        with pytest.raises(BankError, match=r"but the bank asked for has 000000000000\.\.\.; it"):
            command()


def test_a_bank_that_is_not_the_pinned_one_trains_nothing(web):
    with pytest.raises(BankError, match="it is another one"):
        trained(web.address, "far", "--digest", "0" * 64)
    assert not Path("far").exists()
    assert web.names() == ["manifest.json"]


def test_a_run_named_by_its_bank(web):
    train.main(options_of("--bank", web.address, *SMALL[:2], "--steps", 1, "--batch-size", 4))
    assert [path.name for path in Path("runs").iterdir()] == ["00001-127.0.0.1"]


# jobs.verify_bank


def verified(*arguments: object, capsys) -> tuple[int, list[str]]:
    code = 0
    capsys.readouterr()
    try:
        verify_bank.main(parse(verify_bank.VerifyBank, [str(each) for each in arguments]))
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().out.splitlines()


def test_a_whole_bank_is_verified_as_the_folder_is(web, toy_bank, capsys):
    code, far = verified(web.address, capsys=capsys)
    assert code == 0
    _, near = verified(toy_bank, capsys=capsys)
    assert far[-3:] == [f"{web.address}: no damage found", *near[-2:]]
    files = read_manifest(toy_bank).files  # an empty one needs no server
    assert {*web.names()} == {"manifest.json", *(name for name in files if files[name].bytes)}
    assert verified(web.address, toy_bank, "--quick", capsys=capsys)[0] == 0
    assert verified(toy_bank, web.address, capsys=capsys)[0] == 0


def test_what_rots_in_the_mirror_is_fetched_again(web, toy_bank, capsys):
    verified(web.address, capsys=capsys)
    names = ["features.arrow", "index/vectors.npy"]
    names += [
        sorted(name for name in read_manifest(toy_bank).files if part in name)[0]
        for part in ("scenes/", "patches/")
    ]
    for name in names:
        path = mirror() / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    web.asked.clear()
    assert verified(web.address, capsys=capsys)[0] == 0
    assert sorted(web.names()) == sorted(["manifest.json", *names])


def test_what_is_damaged_at_the_address_is_named(web, toy_bank, capsys):
    shard = sorted(name for name in read_manifest(toy_bank).files if "patches/" in name)[0]
    web.always = {"features.arrow": flips(5000), shard: status(404)}
    code, lines = verified(web.address, capsys=capsys)
    assert code == 1
    at = f"damaged: {web.address}"
    assert any(line.startswith(f"{at}/features.arrow is not the file that") for line in lines)
    assert f"{at}/{shard} is not there (404 Not Found); is the address right?" in lines
    assert "damaged: features.arrow: No such file or directory" in lines
    assert lines[-1] == "content digest: cannot be computed"


def test_what_is_no_bank_is_said(web, capsys):
    with pytest.raises(BankError, match=rf"there is no bank at {web.address}/x: "):
        verified(f"{web.address}/x", capsys=capsys)


def test_a_digest_that_the_bank_must_have(web, toy_bank, capsys):
    for place in (web.address, toy_bank):
        digest = read_manifest(toy_bank).manifest_digest
        assert verified(place, "--digest", digest, capsys=capsys)[0] == 0
        for quick in ((), (toy_bank, "--quick")):
            with pytest.raises(BankError, match="is another one, or another version"):
                verified(place, *quick, "--digest", "0" * 64, capsys=capsys)


# Others


def test_a_bank_at_an_address_is_inspected(web, toy_bank, tmp_path, capsys):
    inspect_bank.main(parse(inspect_bank.InspectBank, [str(toy_bank), "--out", "near.html"]))
    near = capsys.readouterr().out.splitlines()
    inspect_bank.main(parse(inspect_bank.InspectBank, [str(web.address)]))
    far = capsys.readouterr().out.splitlines()
    assert [line.replace(str(toy_bank), web.address) for line in near[:-1]] == far[:-1]
    assert re.fullmatch(r"127\.0\.0\.1-report\.html \([\d.]+ MB\)", far[-1])
    assert not any(name.startswith("scenes/") for name in web.names())


def test_every_command_on_a_run_takes_an_address_for_its_bank(web, tmp_path):
    for options, more in (
        (Evaluate, []),
        (SampleOptions, ["--graph", "g"]),
        (report.ReportOptions, []),
    ):
        parsed = parse(options, ["--run", "r", *more, "--bank", f"{web.address}/"])
        assert parsed.bank == web.address
        assert parse(options, ["--run", "r", *more, "--bank", "b"]).bank == Path("b")


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (EditBank, ["http://h/b", "--remove-photo", "1"]),
        (BuildBank, ["--dataset", "toy", "--out", "http://h/b"]),
        (BuildBank, ["--dataset", "toy", "--data=https://h/b"]),
        (SampleOptions, ["--run", "r", "--graph", "x", "http://h/b"]),
    ],
)
def test_what_cannot_be_at_an_address_is_refused_in_a_line(options, arguments):
    with pytest.raises(ValueError, match=r"^(--data=)?https?://h/b is an address; download it, an"):
        parse(options, arguments)
