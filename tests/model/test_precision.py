"""bf16 where it is worth it, float32 where it must be: here by the autocast of a CPU."""

import pytest
import torch
from torch import nn

from model import losses
from model.config import ExecutionConfig, RetrieveGANConfig, Sg2ImConfig
from model.precision import Arithmetic, in_float32
from model.retrievegan import network, trainer
from tests.model.retrievegan.small import N, small_batch, small_trainer

CPU = torch.device("cpu")
BF16 = ExecutionConfig(precision="bf16")


def test_a_cpu_computes_in_float32_unless_it_is_told_otherwise():
    for asked, computed in (
        ("auto", "float32"), ("float32", "float32"), ("tf32", "float32"), ("bf16", "bf16")
    ):  # fmt: skip
        arithmetic = Arithmetic.of(asked, CPU)
        assert arithmetic.precision == computed
        with arithmetic.autocast():
            assert not torch.is_autocast_cache_enabled()  # weights change within a step
            product = torch.ones(2, 2) @ torch.ones(2, 2)
            with in_float32(CPU):
                inside = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if computed == "bf16" else torch.float32)
        assert inside.dtype == torch.float32


def dtypes_of(calls, module):
    module.register_forward_hook(lambda _, given, made: calls.append(made.dtype))


def test_maps_are_bf16_and_images_float32():
    trainer = small_trainer(execution=BF16)
    convolutions, images = [], []
    for part in (trainer.model.decoder, trainer.model.crop_encoder, trainer.model.refinement):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                dtypes_of(convolutions, layer)
    for layer in trainer.image_discriminator.trunk:
        if isinstance(layer, nn.Conv2d):
            dtypes_of(convolutions, layer)
    trainer.model.register_forward_hook(
        lambda *call: images.extend((call[2].images.composed.dtype, call[2].images.rebuilt.dtype))
    )
    trainer.step(small_batch())
    assert set(convolutions) == {torch.bfloat16}
    assert set(images) == {torch.float32}


def test_retrieval_is_in_float32_to_the_last_bit():
    outputs = []
    for execution in (BF16, ExecutionConfig()):
        made = small_trainer(execution=execution)
        made.model.register_forward_hook(lambda *call: outputs.append(call[2]))
        made.step(small_batch())
    rounded, exact = outputs
    assert torch.equal(rounded.box_sides, exact.box_sides)
    assert torch.equal(rounded.gt_selection, exact.gt_selection)
    assert torch.equal(rounded.cooccurrence, exact.cooccurrence)
    for ours, theirs in zip(rounded.selection, exact.selection, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert not torch.equal(rounded.images.rebuilt, exact.images.rebuilt)


def test_losses_gradients_and_weights_are_float32(monkeypatch):
    trainer = small_trainer(execution=BF16)
    totals, mean = [], losses.mean

    def watched_mean(values, *rest):
        totals.append(values.dtype)
        return mean(values, *rest)

    monkeypatch.setattr(losses, "mean", watched_mean)
    update = trainer.update

    def watched(name, parts, losses_of):
        def of(part):
            total, terms = losses_of(part)
            totals.extend([total.dtype, *(term.dtype for term in terms.values())])
            return total, terms

        return update(name, parts, of)

    trainer.update = watched
    values = trainer.step(small_batch())
    assert set(totals) == {torch.float32}
    assert {value.dtype for value in values.values()} == {torch.float32}
    for part in trainer.networks.values():
        for parameter in part.parameters():
            assert parameter.dtype == torch.float32
            assert parameter.grad is None or parameter.grad.dtype == torch.float32


def test_a_spectral_norm_is_iterated_in_float32():
    """On a GPU more is rounded than on a CPU, so it is asked whether anything may be."""
    images = torch.rand(N, 3, 16, 16)
    states = []
    for execution in (BF16, ExecutionConfig()):
        made = small_trainer(execution=execution)
        norms, rounds = made.image_discriminator.trunk[0].parametrizations.weight[0], []
        norms.register_forward_hook(lambda *_, r=rounds: r.append(torch.is_autocast_enabled("cpu")))
        with made.arithmetic.autocast():
            made.image_discriminator(images)
        assert rounds == [False]
        states.append((norms._u, norms._v))
    for rounded, exact in zip(*states, strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, atol=1e-6, rtol=1e-5)


def test_places_are_float32(monkeypatch):
    """Boxes to crop and to paste, the attention of a cell, and where a warp reads."""
    seen = {}
    cropped = trainer.crop

    def crop(images, boxes, image, side, **settings):
        made = cropped(images, boxes, image, side, **settings)
        seen.setdefault("crops", set()).update({images.dtype, boxes.dtype, made.dtype})
        return made

    monkeypatch.setattr(trainer, "crop", crop)
    softmax = network.Fuser.forward.__globals__["softmax_over_objects"]

    def shares(score, inside):
        made = softmax(score, inside)
        seen.setdefault("attention", set()).update({score.dtype, inside.dtype, made.dtype})
        return made

    monkeypatch.setitem(network.Fuser.forward.__globals__, "softmax_over_objects", shares)
    small_trainer(execution=BF16).step(small_batch())
    assert seen == {"crops": {torch.float32}, "attention": {torch.float32}}


@pytest.mark.parametrize("rule", [{}, {"relaxation": "soft"}], ids=str)
def test_losses_in_bf16_are_those_of_float32_within_its_rounding(rule):
    rounded = small_trainer(execution=BF16, retrieval=rule).step(small_batch())
    exact = small_trainer(retrieval=rule).step(small_batch())
    for name, value in exact.items():
        assert rounded[name].item() == pytest.approx(value.item(), rel=0.05, abs=0.01), name


def test_a_gpu_computes_in_bf16_where_that_was_shown_to_be_as_good_and_it_can(monkeypatch):
    gpu = torch.device("cuda")
    assert (RetrieveGANConfig.gpu_precision, Sg2ImConfig.gpu_precision) == ("bf16", "tf32")
    for has_bf16, computed in ((True, "bf16"), (False, "tf32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, has=has_bf16, **__: has)
        assert Arithmetic.of("auto", gpu, "bf16").precision == computed
        assert Arithmetic.of("auto", gpu, "tf32").precision == "tf32"
        assert Arithmetic.of("float32", gpu, "bf16").precision == "float32"


def test_a_trainer_computes_in_its_precision(monkeypatch):
    applied = []
    monkeypatch.setattr(Arithmetic, "apply", lambda self: applied.append(self.precision))
    small_trainer(execution=BF16)
    assert applied == ["bf16"]


def test_convolutions_of_a_gpu_are_exact_in_float32_alone():
    cudnn = torch.backends.cudnn
    for precision, kept in (("float32", "ieee"), ("bf16", "tf32"), ("tf32", "tf32")):
        Arithmetic(precision, torch.device("cuda")).apply()
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == (kept, kept)
    Arithmetic("float32", torch.device("cpu")).apply()
    assert cudnn.conv.fp32_precision == "tf32"
