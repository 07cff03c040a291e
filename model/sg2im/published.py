"""sg2im's published checkpoints (`coco64.pt`, `vg64.pt`, `vg128.pt`) <-> our networks.

Such a file may come from anywhere: nothing in it is executed, and the sizes that its `model_kwargs`
claim are checked before a network is built. Names count, not places: coco64.pt has four relations
more than sg2im's own reader, and calls every unused category number alike.
"""

import io
import re
import reprlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from model.config import SG2IM_DECODER
from model.graph.network import GraphEncoder
from model.graph.vocabularies import listed
from model.sg2im.network import Sg2Im
from pipeline.errors import UserError
from pipeline.files import write_bytes
from pipeline.scene import IMAGE, IN_IMAGE, MASK_SIZE, Vocabulary

Network = TypeVar("Network", bound=nn.Module)

# Far above the published sizes, far below what would exhaust a machine.
MOST_NAMES = 100_000
MOST_LAYERS = 64
MOST_MODULES = 10
MOST_WIDTH = 1 << 15
MOST_PX = 4096
MOST_VALUES = 1 << 28  # of all weights together: 1 GiB; the published files hold 28 million

OTHER_PARTS = ("rel_aux_net.", "refinement_net.")  # of the whole network
KNOWN_KWARGS = {
    "vocab", "image_size", "embedding_dim", "gconv_dim", "gconv_hidden_dim", "gconv_pooling",
    "gconv_num_layers", "refinement_dims", "normalization", "activation", "mask_size",
    "mlp_normalization", "layout_noise_dim",
}  # fmt: skip


class Published(NamedTuple, Generic[Network]):
    """What a checkpoint holds."""

    network: Network  # in evaluation mode, on the CPU
    ignored: tuple[str, ...]  # what the file has besides, such as `model_kwargs.vec_noise_dim`


def ignored_note(path: Path, ignored: Sequence[str]) -> str:
    """One line for whoever prints; nothing depends on it."""
    return f"{path}: ignored {listed(ignored)}, which this version does not use"


class _MisfitError(ValueError):
    """Why a checkpoint is not laid out as it should be."""


class _Checkpoint(NamedTuple):
    kwargs: Mapping[str, Any]
    weights: dict[str, Tensor]  # as named by sg2im
    objects: dict[str, int]  # name -> row of the embedding table
    predicates: dict[str, int]

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(tuple(self.objects), tuple(self.predicates))


def load_published_graph(path: Path) -> Published[GraphEncoder]:
    """The graph part alone, frozen; whatever draws is left out."""
    with _described(path):
        checkpoint = _read(path)
        sizes = _graph_sizes(checkpoint)
        network = _filled(lambda: GraphEncoder(checkpoint.vocabulary, **sizes), checkpoint)
        ignored = _ignored(checkpoint, network, beside=OTHER_PARTS)
    return Published(network.eval().requires_grad_(False), ignored)


def load_published_sg2im(path: Path) -> Published[Sg2Im]:
    """The whole network."""
    with _described(path):
        checkpoint = _read(path)
        sizes = _graph_sizes(checkpoint) | _generator_sizes(checkpoint.kwargs)
        network = _filled(lambda: Sg2Im(checkpoint.vocabulary, **sizes), checkpoint)
        ignored = _ignored(checkpoint, network)
    return Published(network.eval(), ignored)


def save_published_sg2im(path: Path, network: Sg2Im) -> None:
    """Write a checkpoint in the published layout, for sg2im's own code.

    In the file format from before PyTorch 1.6, which the versions that sg2im asks for can read.
    """
    sizes, vocabulary = network.sizes, network.vocabulary
    about = {
        "vocab": {
            "object_name_to_idx": {name: i for i, name in enumerate(vocabulary.objects)},
            "object_idx_to_name": list(vocabulary.objects),
            "pred_name_to_idx": {name: i for i, name in enumerate(vocabulary.predicates)},
            "pred_idx_to_name": list(vocabulary.predicates),
        },
        "image_size": (network.image_px, network.image_px),
        "embedding_dim": sizes["embedding"],
        "gconv_dim": sizes["embedding"],
        "gconv_hidden_dim": sizes["hidden"],
        "gconv_num_layers": sizes["layers"],
        "mlp_normalization": "none",
        "refinement_dims": tuple(sizes["decoder"]),
        "normalization": "batch",
        "activation": f"leakyrelu-{sizes['slope']:.9f}".rstrip("0"),
        "mask_size": MASK_SIZE if sizes["masks"] else 0,
        "layout_noise_dim": network.noise,
    }
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    nothing = dict.fromkeys(("d_obj_kwargs", "d_obj_state", "d_img_kwargs", "d_img_state"))
    checkpoint = {"args": {}, "model_kwargs": about, "model_state": weights, **nothing}
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer, _use_new_zipfile_serialization=False)
    write_bytes(path, buffer.getvalue())


@contextmanager
def _described(path: Path) -> Iterator[None]:
    try:
        yield
    except _MisfitError as error:
        raise UserError(
            f"{path} is not laid out like sg2im's published checkpoints: {error}; give coco64.pt, "
            "vg64.pt, vg128.pt or one written as they are"
        ) from error


def _read(path: Path) -> _Checkpoint:
    checkpoint = _unpickled(path)
    if not isinstance(checkpoint, dict):
        raise _MisfitError(f"it holds a {type(checkpoint).__name__}, not a dictionary")
    kwargs, state = _dictionary(checkpoint, "model_kwargs"), _dictionary(checkpoint, "model_state")
    vocabulary = _dictionary(kwargs, "vocab")
    weights = {}
    for key, value in state.items():
        name = str(key).removeprefix("module.")
        if name in weights:
            raise _MisfitError(f"it has {name} twice, with and without 'module.'")
        if _is_weight(value):
            # A saved Parameter brings attributes of its own, which may hide methods.
            weights[name] = Tensor.detach(value)
    return _Checkpoint(
        kwargs,
        weights,
        _rows(_dictionary(vocabulary, "object_name_to_idx"), IMAGE),
        _rows(_dictionary(vocabulary, "pred_name_to_idx"), IN_IMAGE),
    )


class _StandIn:
    """In place of a NumPy number: sg2im's training script leaves some among its losses."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _plain_dictionary(*_: object) -> dict[Any, Any]:
    """In place of a `defaultdict`: it is filled from the file, and nothing asks for a default."""
    return {}


def _plain_list(*_: object) -> list[Any]:
    """In place of `list`, which a `defaultdict` names: called on a view, it would fill memory."""
    return []


# What sg2im's training script writes besides tensors. The names are answered by the above, so that
# of the file's own wishes only building lists and dictionaries is granted.
ANSWERS: list[Any] = [
    (_plain_dictionary, "collections.defaultdict"),
    (_plain_list, "builtins.list"),
    (_StandIn, "numpy.dtype"),
    (_StandIn, "numpy.core.multiarray.scalar"),
    (_StandIn, "numpy._core.multiarray.scalar"),
]


def _unpickled(path: Path) -> Any:
    """What torch makes of the file without executing anything in it."""
    try:
        file = _as_packed(path) if zipfile.is_zipfile(path) else path
        with torch.serialization.safe_globals(ANSWERS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {path}: give a file that is there") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; give the checkpoint itself, a .pt file") from error
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        asked = re.search(r"GLOBAL ([\w.]+) was not an allowed", str(error))
        if asked:
            raise UserError(
                f"{path} cannot be read: it asks for {asked[1]}, which is not plain data, and "
                "nothing in a checkpoint is executed; give one of tensors, numbers and names"
            ) from error
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): is it one, and is it "
            "whole?"
        ) from error


def _as_packed(path: Path) -> io.BytesIO:
    """The members of a zip in a zip of our own, so that torch reads what was looked at: a file
    can show one directory to Python and another to torch. UserError for compressed ones, which
    could unpack to any size."""
    clean = io.BytesIO()
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(clean, "w") as copy:
        members = file.infolist()
        stored = all(m.compress_type == zipfile.ZIP_STORED for m in members)
        if not stored or sum(m.file_size for m in members) > path.stat().st_size:
            raise UserError(
                f"{path} is a compressed zip, which no checkpoint is: it is not unpacked"
            )
        for member in members:
            copy.writestr(member.filename, file.read(member))
    clean.seek(0)
    return clean


def is_published(path: Path) -> bool:
    """Whether a path is to be read as a published checkpoint, and not as a run or file of ours."""
    return path.suffix == ".pt" or (path.is_file() and path.suffix != ".safetensors")


def _dictionary(whole: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    part = whole.get(name)
    if not isinstance(part, dict):
        raise _MisfitError(f"its {name!r} is {_short(part)}, not a dictionary")
    return part


def _is_weight(value: object) -> bool:
    """A tensor of numbers that lies in this machine's memory, as weights do."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and not value.is_quantized
        and not torch.is_complex(value)
    )


def _rows(row_of: Mapping[Any, Any], first: str) -> dict[str, int]:
    """Names -> rows of the embedding table, in the table's order but for `first`."""
    if len(row_of) > MOST_NAMES:
        raise _MisfitError(f"its vocabulary has {len(row_of):,} names, over {MOST_NAMES:,}")
    for name, row in row_of.items():
        if type(name) is not str or type(row) is not int or row < 0:
            pair = f"{_short(name)} to {_short(row)}"
            raise _MisfitError(f"its vocabulary maps {pair}, not a name to a row")
    if first not in row_of:
        raise _MisfitError(f"its vocabulary lacks {first!r}")
    return dict(sorted(row_of.items(), key=lambda item: (item[0] != first, item[1])))


def _graph_sizes(checkpoint: _Checkpoint) -> dict[str, Any]:
    kwargs, weights = checkpoint.kwargs, checkpoint.weights
    embedding = _count(kwargs, "embedding_dim", 64, MOST_WIDTH)
    width = _count(kwargs, "gconv_dim", 128, MOST_WIDTH)
    if embedding != width:
        raise _MisfitError(f"embedding_dim {embedding} and gconv_dim {width} should be equal")
    _only(kwargs, "mlp_normalization", "none")
    _only(kwargs, "gconv_pooling", "avg")
    masks = any(name.startswith("mask_net.") for name in weights)
    if "mask_size" in kwargs:
        size = kwargs["mask_size"]
        if size is not None and (type(size) is not int or size not in (0, MASK_SIZE)):
            what = f"mask_size is {_short(size)}"
            raise _MisfitError(f"{what}; masks of {MASK_SIZE}, or none, can be read")
        masks = bool(size)
    return {
        "embedding": embedding,
        "hidden": _count(kwargs, "gconv_hidden_dim", 512, MOST_WIDTH),
        "layers": _count(kwargs, "gconv_num_layers", 5, MOST_LAYERS),
        "masks": masks,
    }


def _generator_sizes(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    _only(kwargs, "normalization", "batch")
    decoder = kwargs.get("refinement_dims", SG2IM_DECODER)
    if not isinstance(decoder, tuple | list) or not 1 <= len(decoder) <= MOST_MODULES:
        raise _MisfitError(f"refinement_dims is {_short(decoder)}, not 1 to {MOST_MODULES} widths")
    widths = {f"refinement_dims[{i}]": width for i, width in enumerate(decoder)}
    size = kwargs.get("image_size", (64, 64))
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise _MisfitError(f"image_size is {_short(size)}, not a square's")
    side, other = (_count({"image_size": s}, "image_size", 0, MOST_PX) for s in size)
    if side != other:
        raise _MisfitError(f"image_size is {_short(size)}, not a square's")
    if side % (1 << len(decoder)):
        raise _MisfitError(f"{len(decoder)} refinement modules cannot double up to {side} px")
    return {
        "image_px": side,
        "noise": _count(kwargs, "layout_noise_dim", 0, MOST_WIDTH, least=0),
        "decoder": tuple(_count(widths, name, 0, MOST_WIDTH) for name in widths),
        "slope": _slope(kwargs.get("activation", "leakyrelu-0.2")),
    }


def _slope(activation: Any) -> float:
    """`leakyrelu-0.2`; without a number it is PyTorch's 0.01. sg2im makes `relu` the same."""
    pattern = r"(?:leakyrelu(?:-(\d{1,3}(?:\.\d{1,9})?))?|relu)"
    text = activation if type(activation) is str else ""
    match = re.fullmatch(pattern, text[:40], re.ASCII)
    if match is None:
        raise _MisfitError(f"activation is {_short(activation)}, not e.g. 'leakyrelu-0.2'")
    return float(match[1] or 0.01)


def _count(values: Mapping[str, Any], name: str, default: int, most: int, *, least: int = 1) -> int:
    value = values.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise _MisfitError(f"{name} is {_short(value)}, not a whole number from {least} to {most}")
    return value


def _only(kwargs: Mapping[str, Any], name: str, known: str) -> None:
    value = kwargs.get(name, known)
    if type(value) is not str or value != known:
        raise _MisfitError(f"{name} is {_short(value)}; only {known!r} can be read")


def _filled(build: Callable[[], Network], checkpoint: _Checkpoint) -> Network:
    """The network with the file's weights. It is built without memory of its own, and takes the
    file's tensors only when every one of them has the shape it should have."""
    with torch.device("meta"):
        network = build()
    expected = network.state_dict()
    if sum(value.numel() for value in expected.values()) > MOST_VALUES:
        raise _MisfitError(f"model_kwargs ask for over {MOST_VALUES:,} weights")
    weights = _by_our_rows(checkpoint, expected)
    loaded = {}
    for name, own in expected.items():
        stored = weights.get(name)
        if stored is None and name.endswith("num_batches_tracked"):  # not before torch 0.4.1
            stored = torch.zeros((), dtype=own.dtype)
        if stored is None:
            raise _MisfitError(f"it has no tensor {name}")
        _check_shape(name, stored, tuple(own.shape))
        _check_numbers(name, stored, own)
        loaded[name] = stored.detach().to(own.dtype).contiguous()
    network.load_state_dict(loaded, assign=True)
    return network


def _by_our_rows(checkpoint: _Checkpoint, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with one row per name, in the order of our vocabulary."""
    weights = dict(checkpoint.weights)
    predicates = tuple(checkpoint.predicates.values())
    # One row more than there are names, which nothing points to: -1.
    rows_of = {"obj_embeddings.weight": (*checkpoint.objects.values(), -1)}
    for name in ("pred_embeddings.weight", "rel_aux_net.2.weight", "rel_aux_net.2.bias"):
        rows_of[name] = predicates
    for name, rows in rows_of.items():
        if name in weights and name in expected:
            table = weights[name].detach()
            _check_shape(name, table, (None, *expected[name].shape[1:]))
            beyond = len(table) - rows.count(-1)
            if wrong := [row for row in rows if not -1 <= row < beyond]:
                raise _MisfitError(
                    f"its vocabulary points to row {wrong[0]} of {name}, which has {len(table)}"
                )
            weights[name] = table[list(rows)]
    return weights


def _check_shape(name: str, stored: Tensor, wanted: tuple[int | None, ...]) -> None:
    shape = tuple(stored.shape)
    fits = len(shape) == len(wanted) and all(
        most is None or side == most for side, most in zip(shape, wanted, strict=True)
    )
    if not fits:
        shown = str(tuple("any" if side is None else side for side in wanted)).replace("'", "")
        raise _MisfitError(f"{name} is of shape {shape}, where {shown} is needed")


def _check_numbers(name: str, stored: Tensor, own: Tensor) -> None:
    if torch.is_floating_point(own) != torch.is_floating_point(stored):
        raise _MisfitError(f"{name} is of {stored.dtype}, where {own.dtype} is needed")
    if not torch.isfinite(stored).all():
        raise _MisfitError(f"{name} holds values that are not finite")


def _ignored(
    checkpoint: _Checkpoint, network: nn.Module, beside: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """What has no use here; `beside` are beginnings of what was left out on purpose."""
    own = network.state_dict()
    kwargs = sorted(str(name) for name in checkpoint.kwargs if name not in KNOWN_KWARGS)
    tensors = [n for n in checkpoint.weights if n not in own and not n.startswith(beside)]
    return (
        *(f"model_kwargs.{name}" for name in kwargs),
        *(f"model_state.{name}" for name in sorted(tensors)),
    )


def _short(value: object) -> str:
    """A value that may be of any size, for a message of one line."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return " ".join(reprlib.repr(value).split())
