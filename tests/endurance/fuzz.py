"""Mutated files of every kind that comes from outside: each is taken, or refused in one line.

python -m tests.endurance.fuzz                     10,000 cases; a table of what became of them
python -m tests.endurance.fuzz --count 500 --seed 7 --out tally.md
python -m tests.endurance.fuzz --seed 7 --case 123    one case here, with its traceback

Cases run in a worker process, so that a crash, a hang and memory are seen and counted; each is
known by seed and number. Exit code 1 where a case did not end well.
"""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from bank.bank import Bank
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import read_manifest
from bank.verify import verify
from jobs.build_bank import BuildBank
from jobs.build_bank import main as build_bank
from jobs.show.styles import read_styles
from jobs.stages.cutting import CropOptions, cut_photo, usable_scene
from model.graph.frozen_encoder import GraphEncoder
from model.retrieval.cooccurrence import CooccurrenceNetwork
from model.sg2im.network import Sg2Im
from model.sg2im.published import load_published_sg2im, save_published_sg2im
from model.sg2im.run import load_graph_encoder
from pipeline.coco.reader import read_coco
from pipeline.data_folder import DataFolder, open_archive
from pipeline.dataset import Dataset
from pipeline.errors import exit_code
from pipeline.scene import IMAGE, IN_IMAGE, AnnotatedObject, AnnotatedPhoto, Photo, Vocabulary
from pipeline.scene_graph import read_scene_graphs
from pipeline.toy.coco import write_toy
from pipeline.toy.visual_genome import TOY_RULES, write_toy_visual_genome
from pipeline.visual_genome.reader import read_visual_genome
from tests.endurance.mutations import mutated

START = "spawn"  # of workers: a fork would share what this process has open
CASE_S = 20.0  # a case that takes longer hangs
MOST_GROWTH = 600_000  # kB that one case may add to what the worker ever held
MOST_DATA = 8 << 30  # bytes; beyond, the system gives a worker no more
LONGEST_LINE = 1500  # characters of a refusal: it names a folder and a file

W, H = 48, 32
CROPS = CropOptions(16, 8, "torch")
VOCABULARY = Vocabulary((IMAGE, "sky", "boat"), (IN_IMAGE, "above", "below"))
VG_RULES = replace(TOY_RULES, min_object_count=2, min_attribute_count=2, min_relation_count=2)

BAD = ("traceback", "crash", "hang", "memory", "unclear", "missed")


# What is read


@dataclass(frozen=True)
class Target:
    """A folder of whole files, those of them that are mutated, and who reads them."""

    kind: str
    weight: int  # cases in a hundred
    folder: str
    files: tuple[str, ...]
    read: Callable[[Path, str], str]  # folder, mutated file -> what came out, as a short text

    def bases(self, base: Path) -> dict[str, bytes]:
        return {file: (base / self.folder / file).read_bytes() for file in self.files}


def digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _cut(photos: Iterable[AnnotatedPhoto], folder: Path) -> str:
    """Digest of the patches of all photos, and the reasons of those that gave none."""
    parts, reasons = [], []
    for annotated in photos:
        cut = cut_photo(usable_scene(annotated), DataFolder(folder), CROPS)
        reasons += [r.reason for r in cut.left_out if r.object_index is None]
        if cut.cut_scene is not None:
            parts += [cut.cut_scene.patches.tobytes(), cut.cut_scene.sample.boxes.tobytes()]
    return " ".join([digest(parts), *reasons])


def _dataset(dataset: Dataset, folder: Path) -> str:
    said = digest([(p.photo, p.objects, p.relations) for p in dataset.photos], dataset.vocabulary)
    return said[:32] + _cut(dataset.photos[:6], folder)


def read_coco_files(folder: Path, _: str) -> str:
    return _dataset(read_coco(folder), folder)


def read_vg_files(folder: Path, _: str) -> str:
    return _dataset(read_visual_genome(DataFolder(folder), VG_RULES), folder)


def _annotated(image_id: int, file: str) -> AnnotatedPhoto:
    things = (AnnotatedObject(0, "a", (2, 3, 20, 20)), AnnotatedObject(1, "b", (0, 0, W, H)))
    return AnnotatedPhoto(Photo(image_id, file, W, H, "train", "", ""), things)


def read_one_photo(folder: Path, file: str) -> str:
    return _cut([_annotated(1, file)], folder)


def read_zipped_photos(folder: Path, _: str) -> str:
    return _cut([_annotated(i, f"photos/{i}.jpg") for i in range(3)], folder)


def read_graphs(folder: Path, file: str) -> str:
    return digest(read_scene_graphs(folder / file, VOCABULARY))


def read_network(folder: Path, file: str) -> str:
    path = folder / file
    if file.startswith("cooccurrence"):
        network = CooccurrenceNetwork.load(path)
    else:
        network = load_graph_encoder(path)
    said = [(name, value.numpy().tobytes()) for name, value in network.state_dict().items()]
    if file.endswith(".pt"):
        load_published_sg2im(path)
    return digest(said)


def read_world(folder: Path, _: str) -> str:
    """A toy world's styles, where scores read them and where the world is drawn anew."""
    by_photo = read_styles(folder / "styles.json", Bank.open(folder.parent / "bank"))
    assert by_photo is not None
    write_toy(folder, train_photos=1, val_photos=1)
    return digest(by_photo.tolist())


def read_bank(folder: Path, file: str) -> str:
    """All that a bank is asked for; what its readers do not see, `verify` must name."""
    with contextlib.suppress(BankError):  # of a damaged manifest
        then = read_manifest(folder).files.get(file)
        changed = then is not None and then != file_digest(folder / file)
        if changed and not any(damage.startswith(file) for damage in verify(folder).damages):
            raise MissedError(f"verify does not name {file}")
    return _asked(Bank.open(folder))


class MissedError(Exception):
    """Damage that nobody noticed."""


def _asked(bank: Bank) -> str:
    ids = bank.patch_ids[:4]
    near = bank.candidates(ids)
    words = list(bank.vocabulary.objects[1:3])
    searched = bank.search(bank.features(ids[:2]), words, 3)
    scenes = [bank.scene(int(i)) for i in bank.scene_ids("train")[:2]]
    said = (
        ids,
        bank.patches(ids),
        near,
        bank.cooccurrence(ids),
        searched,
        bank.credits(ids.tolist()),
    )
    return digest(said, scenes)


# Whole files to begin with


def prepare(base: Path) -> None:
    """Small ones of every kind."""
    write_toy(base / "coco", train_photos=6, val_photos=4)
    write_toy_visual_genome(base / "vg", train_photos=8, val_photos=4)
    for folder, make in (("photos", _photos), ("networks", _networks), ("graphs", _graphs)):
        (base / folder).mkdir()
        make(base / folder)
    (base / "zip").mkdir()
    with zipfile.ZipFile(base / "zip/photos.zip", "w") as archive:
        for i, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)):
            archive.write(base / "photos/rgb.png", f"photos/{i}.jpg", method)
    _bank(base)
    (base / "world").mkdir()
    shutil.copy(base / "coco/styles.json", base / "world")


def _photos(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (H // 8, W // 8, 3), np.uint8)
    pixels = noise.repeat(8, 0).repeat(8, 1)
    rgb = Image.fromarray(pixels)
    grey = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [Image.new("RGB", (W, H))]}
    photos: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.jpg": (rgb, {}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "grey.jpg": (rgb.convert("L"), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "exif.jpg": (rgb, {"exif": exif}),
        "rgb.png": (rgb, {}),
        "palette.png": (rgb.convert("P"), {"transparency": 0}),
        "rgba.png": (rgb.convert("RGBA"), {}),
        "wide.png": (grey, {}),
        "bits.png": (rgb.convert("1"), {}),
        "lossless.webp": (rgb, {"lossless": True}),
        "lossy.webp": (rgb, {"exif": exif}),
        "frames.webp": (rgb, frames),
        "palette.gif": (rgb.convert("P"), {}),
        "frames.gif": (rgb, frames),
        "rgb.tif": (rgb, {}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "turned.tif": (rgb, {"exif": exif}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "fax.tif": (rgb.convert("1"), {"compression": "group4"}),
        "wide.tif": (grey, {"compression": "tiff_adobe_deflate"}),
        "rgb.bmp": (rgb, {}),
        "palette.bmp": (rgb.convert("P"), {}),
        "rgb.ppm": (rgb, {}),
    }
    for name, (image, options) in photos.items():
        image.save(folder / name, **options)


def _networks(folder: Path) -> None:
    torch.manual_seed(0)
    CooccurrenceNetwork().save(folder / "cooccurrence.safetensors")
    GraphEncoder(VOCABULARY, embedding=4, hidden=6, layers=2).save(folder / "graph.safetensors")
    sizes: dict[str, Any] = {"embedding": 4, "hidden": 6, "layers": 2, "image_px": 8, "noise": 2}
    network = Sg2Im(VOCABULARY, decoder=(5, 3), **sizes).eval()
    save_published_sg2im(folder / "published.pt", network)
    checkpoint = torch.load(folder / "published.pt", weights_only=True)
    torch.save(checkpoint, folder / "zipped.pt")


def _bank(base: Path) -> None:
    """With a small encoder: its file is hashed whenever the bank is opened."""
    encoder = base / "encoder.safetensors"
    vocabulary = read_coco(base / "coco").vocabulary
    GraphEncoder(vocabulary, embedding=4, hidden=6, layers=2).save(encoder)
    small: dict[str, Any] = {"image_size": 16, "patch_size": 8, "candidates": 3}
    networks = {"graph_encoder": str(encoder), "cooccurrence_steps": 1}
    build_bank(BuildBank(dataset="toy", data=base / "coco", out=base / "bank", **small, **networks))


def _graphs(folder: Path) -> None:
    graph = {"objects": ["sky", "boat"], "relationships": [[0, "above", 1]]}
    boxes = [[0, 0, 1, 0.5], [0.2, 0.5, 0.6, 1]]
    (folder / "one.json").write_text(json.dumps(graph | {"boxes": boxes}))
    (folder / "two.json").write_text(json.dumps([graph, graph]))


def _photo_files(*suffixes: str) -> tuple[str, ...]:
    names = {
        "jpg": ("rgb", "progressive", "grey", "cmyk", "exif"),
        "png": ("rgb", "palette", "rgba", "wide", "bits"),
        "webp": ("lossless", "lossy", "frames"),
        "gif": ("palette", "frames"),
        "tif": ("rgb", "lzw", "turned", "jpeg", "fax", "wide"),
        "bmp": ("rgb", "palette"),
        "ppm": ("rgb",),
    }
    return tuple(f"{name}.{suffix}" for suffix in suffixes for name in names[suffix])


COCO = tuple(
    f"annotations/{kind}_{part}2017.json"
    for kind in ("instances", "stuff")
    for part in ("train", "val")
)
VG_JSON = tuple(
    f"{name}.json" for name in ("image_data", "objects", "relationships", "attributes", "vg_splits")
)
VG_TEXT = ("object_alias.txt", "relationship_alias.txt")
BANK = (
    "manifest.json", "vocabulary.json", "patches.arrow", "scenes.index.arrow", "candidates.arrow",
    "features.arrow", "cooccurrence.arrow", "index/index.json", "index/ids.npy",
    "index/vectors.npy", "index/00001.faiss", "scenes/train-00000.tar",
    "patches/train-00000/data.mdb",
)  # fmt: skip

TARGETS = (
    Target("COCO annotations", 25, "coco", COCO, read_coco_files),
    Target("VG annotations", 24, "vg", (*VG_JSON, *VG_TEXT), read_vg_files),
    Target("photo, JPEG", 12, "photos", _photo_files("jpg"), read_one_photo),
    Target("photo, PNG", 6, "photos", _photo_files("png"), read_one_photo),
    Target("photo, WebP", 4, "photos", _photo_files("webp"), read_one_photo),
    Target("photo, GIF", 4, "photos", _photo_files("gif"), read_one_photo),
    Target("photo, TIFF", 6, "photos", _photo_files("tif"), read_one_photo),
    Target("photo, BMP or PPM", 3, "photos", _photo_files("bmp", "ppm"), read_one_photo),
    Target("zip of photos", 4, "zip", ("photos.zip",), read_zipped_photos),
    Target("scene graph", 4, "graphs", ("one.json", "two.json"), read_graphs),
    Target("network, .safetensors", 2, "networks",
           ("graph.safetensors", "cooccurrence.safetensors"), read_network),
    Target("network, .pt", 2, "networks", ("published.pt", "zipped.pt"), read_network),
    Target("toy styles", 1, "world", ("styles.json",), read_world),
    Target("bank", 3, "bank", BANK, read_bank),
)  # fmt: skip


# A case


class Case(NamedTuple):
    target: Target
    file: str
    data: bytes


class Outcome(NamedTuple):
    kind: str
    result: str  # one of BAD, or unchanged, accepted, refused, "left out: <reason>"
    detail: str = ""


class Bench:
    """A folder of the whole files, in which one after another is replaced by a mutated one."""

    def __init__(self, base: Path, scratch: Path, only: str = "") -> None:
        """`only`: of targets whose kind begins so."""
        self.base, self.scratch = base, scratch
        self.targets = [t for t in TARGETS if t.kind.startswith(only)]
        self.bases = {target.kind: target.bases(base) for target in TARGETS}
        self.whole: dict[tuple[str, str], str] = {}

    def warm(self) -> None:
        """What is loaded once is no case's memory."""
        for target in self.targets:
            self._read(target, target.files[0], None)

    def draw(self, seed: int, number: int) -> Case:
        random = Random(f"{seed} {number}")
        (target,) = random.choices(self.targets, [t.weight for t in self.targets])
        file = random.choice(target.files)
        bases = self.bases[target.kind]
        as_json = file.endswith(".json")
        data = mutated(bases[file], list(bases.values()), random, as_json=as_json)
        return Case(target, file, data)

    def run(self, case: Case) -> Outcome:
        """As a command would: only a UserError is a refusal."""
        kind = case.target.kind
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result, detail = self._result(case)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > MOST_GROWTH:
            return Outcome(kind, "memory", f"{grown:,} kB")
        return Outcome(kind, result, detail)

    def _result(self, case: Case) -> tuple[str, str]:
        try:
            code, lines, said = self._read(case.target, case.file, case.data)
        except MissedError as error:
            return "missed", str(error)
        except BaseException:
            return "traceback", traceback.format_exc()
        if code:
            clear = len(lines) == 1 and 20 < len(lines[0]) < LONGEST_LINE
            return ("refused" if clear else "unclear"), "\n".join(lines)
        digest, *reasons = said.split(" ")
        if reasons:
            return f"left out: {reasons[0]}", ""
        return ("unchanged" if digest == self._of_whole(case) else "accepted"), ""

    def _of_whole(self, case: Case) -> str:
        key = (case.target.kind, case.file)
        if key not in self.whole:
            self.whole[key] = self._read(case.target, case.file, None)[2]
        return self.whole[key]

    def _read(self, target: Target, file: str, data: bytes | None) -> tuple[int, list[str], str]:
        """Exit code, the lines of the error and what was read. None: the whole file."""
        folder = self.put(target, file, data)
        said = ""

        def job() -> None:
            nonlocal said
            said = target.read(folder, file)

        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = exit_code(job)
        finally:
            open_archive.cache_clear()
            self._link_anew(target, file)
        text = err.getvalue()
        lines = text[text.index("error: ") :].splitlines() if code else []
        return code, lines, said

    def put(self, target: Target, file: str, data: bytes | None) -> Path:
        folder = self.scratch / target.folder
        if target.kind == "toy styles":  # its reader writes: another folder each time
            shutil.rmtree(folder, ignore_errors=True)
            self._link("bank")
        self._link(target.folder)
        if data is not None:
            (folder / file).unlink()
            (folder / file).write_bytes(data)
        return folder

    def _link_anew(self, target: Target, file: str) -> None:
        """The whole file in place of the mutated one."""
        path = self.scratch / target.folder / file
        path.unlink()
        os.link(self.base / target.folder / file, path)

    def _link(self, folder: str) -> None:
        if not (self.scratch / folder).exists():
            shutil.copytree(self.base / folder, self.scratch / folder, copy_function=os.link)


# All cases


def work(base: Path, scratch: Path, seed: int, only: str, connection: Connection) -> None:
    """In a process of its own: case numbers in, outcomes out."""
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA, MOST_DATA))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # whoever runs the command would read them
    bench = Bench(base, scratch, only)
    bench.warm()
    connection.send(None)
    while (number := connection.recv()) is not None:
        connection.send(bench.run(bench.draw(seed, number)))


class Worker:
    """One process for case after case, and another one when it dies."""

    def __init__(self, base: Path, seed: int, only: str) -> None:
        self._base, self._seed, self._only = base, seed, only
        self._bench = Bench(base, base, only)
        self._start()

    def _start(self) -> None:
        self._scratch = Path(tempfile.mkdtemp(dir=self._base.parent))
        ours, theirs = multiprocessing.Pipe()
        args = (self._base, self._scratch, self._seed, self._only, theirs)
        self._process = multiprocessing.get_context(START).Process(target=work, args=args)
        self._process.start()
        theirs.close()
        self._connection = ours
        ours.recv()

    def run(self, number: int) -> Outcome:
        kind = self._bench.draw(self._seed, number).target.kind
        self._connection.send(number)
        try:
            if self._connection.poll(CASE_S):
                outcome: Outcome = self._connection.recv()
                return outcome
            outcome = Outcome(kind, "hang", f"longer than {CASE_S:.0f} s")
            self._process.kill()
        except (EOFError, ConnectionError):
            self._process.join()
            outcome = Outcome(kind, "crash", f"exit code {self._process.exitcode}")
        self._end()
        self._start()
        return outcome

    def _end(self) -> None:
        self._process.join()
        self._connection.close()
        shutil.rmtree(self._scratch)

    def close(self) -> None:
        self._connection.send(None)
        self._end()


class Tally:
    def __init__(self) -> None:
        self.results: dict[str, Counter[str]] = defaultdict(Counter)
        self.failures: list[tuple[int, Outcome]] = []

    def add(self, number: int, outcome: Outcome) -> None:
        self.results[outcome.kind][outcome.result] += 1
        if outcome.result in BAD:
            self.failures.append((number, outcome))

    def table(self) -> str:
        """Markdown: a row per kind of file."""
        rows = [
            "| kind of file | cases | unchanged | accepted | refused in one line | photo left out "
            "| crashes, hangs, tracebacks |",
            "|---|--:|--:|--:|--:|---|--:|",
        ]
        order = [t.kind for t in TARGETS if t.kind in self.results]
        for kind, counts in (
            *((kind, self.results[kind]) for kind in order),
            ("all", sum(self.results.values(), Counter())),
        ):
            left_out = sorted(
                (-n, r.removeprefix("left out: "))
                for r, n in counts.items()
                if r.startswith("left")
            )
            reasons = ", ".join(f"{reason} {-n:,}" for n, reason in left_out) or "0"
            bad = sum(counts[result] for result in BAD)
            plain = (counts.total(), counts["unchanged"], counts["accepted"], counts["refused"])
            cells = [f"{n:,}" for n in plain]
            rows.append(f"| {kind} | {' | '.join(cells)} | {reasons} | {bad} |")
        return "\n".join(rows)


def fuzz(base: Path, seed: int, numbers: Iterable[int], only: str = "") -> Tally:
    """Run cases on the files that `prepare` has made."""
    tally, worker = Tally(), Worker(base, seed, only)
    for number in numbers:
        outcome = worker.run(number)
        tally.add(number, outcome)
        if outcome.result in BAD:
            print(f"case {number}, {outcome.kind}: {outcome.result}\n{outcome.detail}", flush=True)
    worker.close()
    return tally


def command_refuses(base: Path, seed: int, number: int) -> str:
    """What `build_bank` says to a case's dataset; AssertionError unless it is one clear line."""
    bench = Bench(base, Path(tempfile.mkdtemp(dir=base.parent)))
    case = bench.draw(seed, number)
    folder = bench.put(case.target, case.file, case.data)
    out = bench.scratch / "out"
    command = [sys.executable, "-m", "jobs.build_bank", "--dataset", "coco"]
    done = subprocess.run(
        [*command, "--data", str(folder), "--out", str(out)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    shutil.rmtree(bench.scratch)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


def refused_numbers(base: Path, seed: int, most: int) -> list[int]:
    """The first cases of COCO's files that are refused."""
    bench = Bench(base, Path(tempfile.mkdtemp(dir=base.parent)))
    numbers: list[int] = []
    number = 0
    while len(numbers) < most:
        case = bench.draw(seed, number)
        if case.target.folder == "coco" and bench.run(case).result == "refused":
            numbers.append(number)
        number += 1
    shutil.rmtree(bench.scratch)
    return numbers


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of all cases")
    parser.add_argument("--only", default="", help="kinds of files that begin so, e.g. photo")
    parser.add_argument("--case", type=int, help="only this one, in this process")
    parser.add_argument("--commands", type=int, default=5, help="refused ones given to build_bank")
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare(base)
        if options.case is not None:
            return one_case(base, options.seed, options.case, options.only)
        start = time.monotonic()
        tally = fuzz(base, options.seed, range(options.count), options.only)
        seconds = time.monotonic() - start
        said = [
            command_refuses(base, options.seed, number)
            for number in refused_numbers(base, options.seed, options.commands)
        ]
    how = f"`python -m tests.endurance.fuzz --count {options.count} --seed {options.seed}`"
    table = f"{how}: {seconds:.0f} s\n\n{tally.table()}\n"
    table += f"\nOf the refused, {len(said)} went to the real command: each ended in one line.\n"
    print(table)
    if options.out:
        options.out.write_text(table, "utf-8")
    return 1 if tally.failures else 0


def one_case(base: Path, seed: int, number: int, only: str) -> int:
    bench = Bench(base, Path(tempfile.mkdtemp(dir=base.parent)), only)
    case = bench.draw(seed, number)
    print(f"{case.target.kind}, {case.file}, {len(case.data):,} bytes")
    outcome = bench.run(case)
    print(outcome.result, outcome.detail, sep="\n")
    return int(outcome.result in BAD)


if __name__ == "__main__":
    sys.exit(main())
