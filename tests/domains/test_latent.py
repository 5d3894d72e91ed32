"""Latent: unit scale, the way back, sizes, one file, and what training keeps of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kakusan.catalog import build
from kakusan.checkpoint import load_model, load_module, save_model
from kakusan.core.autoencoder import Autoencoder
from kakusan.core.rng import Rng
from kakusan.domains.image import Image
from kakusan.domains.latent import Latent, seen
from kakusan.nets.autoencoder import ConvAutoencoder
from kakusan.nets.layers import fold, unfold
from kakusan.part import KakusanError
from kakusan.training.data import Batches, Dataset
from kakusan.training.latents import Latents


class Folded(Autoencoder):
    """Loses nothing: every 2 x 2 pixels become four channels, scaled apart."""

    kind = "test/folded"

    def __init__(self, spread: float = -60.0) -> None:
        super().__init__()
        self.channels, self.latent, self.factor, self.spread = 1, 4, 2, spread
        self.gain = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = fold(x, (2, 2)) * self.gain + 1
        return mean, torch.full_like(mean, self.spread)

    def decode(self, z: Tensor) -> Tensor:
        return unfold((z - 1) / self.gain, (2, 2))


def small(mode: str = "L", size: int = 8) -> Latent:
    torch.manual_seed(0)
    image = Image([size, size], mode)
    return Latent(image, ConvAutoencoder(image.channels, 4, 4, width=8), [0.5, -1, 0, 2], [2.0, 1, 3, 0.5])


def test_what_is_diffused_has_mean_0_and_variance_1():
    x = 0.3 * torch.randn(500, 1, 8, 8) - 0.2
    plain = Latent(Image([8, 8], "L"), Folded(spread=-1.0))
    latent = plain.measured(*plain.moments(x))
    z = latent.encode(x, None, Rng(range(500))).double().movedim(1, 0).flatten(1)
    assert torch.allclose(z.mean(1), torch.zeros(4, dtype=torch.float64), atol=0.03)
    assert torch.allclose(z.std(1), torch.ones(4, dtype=torch.float64), atol=0.03)
    assert latent.sigma_data == 1.0


def test_decoding_undoes_encoding_and_is_differentiable():
    x = torch.randn(3, 1, 8, 8)
    latent = Latent(Image([8, 8], "L"), Folded(), [1.0, 2, 3, 4], [0.5, 1, 2, 3])
    z = latent.encode(x)
    assert z.shape == (3, 4, 4, 4) and torch.allclose(latent.decode(z), x, atol=1e-5)
    point = z[:1].detach().double().requires_grad_()
    assert torch.autograd.gradcheck(latent.double().decode, (point,))


def test_many_samples_go_through_in_pieces_and_come_out_the_same():
    latent, x = small(), torch.randn(70, 1, 8, 8)
    assert torch.allclose(latent.encode(x)[65:67], latent.encode(x[65:67]), atol=1e-5)
    z = torch.randn(70, 4, 2, 2)
    assert torch.allclose(latent.decode(z)[65:67], latent.decode(z[65:67]), atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_records_and_shapes_are_the_pictures_own(mode):
    latent = small(mode)
    record = latent.domain.records(torch.rand(1, latent.domain.channels, 8, 8))[0]
    assert torch.equal(latent.tensor(record), latent.domain.tensor(record))
    assert latent.blank(2) == [(4, 2, 2)] * 2 and latent.blank(1, size=16) == [(4, 4, 4)]
    assert latent.encode(latent.tensor(record)[None]).shape == (1, 4, 2, 2)
    assert latent.resized((16, 12)).blank(1) == [(4, 4, 3)]
    assert seen(latent) is latent.domain and seen(latent.domain) is latent.domain


def test_sizes_and_scales_that_do_not_fit_are_refused():
    net = ConvAutoencoder(1, 4, 4, width=8)
    image = Image([8, 8], "L")
    with pytest.raises(KakusanError, match="folds by 4; give a multiple, as --size 12"):
        Latent(Image([9, 9], "L"), net)
    with pytest.raises(KakusanError, match="folds by 4"):
        Latent(image, net).blank(1, size=10)
    with pytest.raises(KakusanError, match="domain has 3 channels, the autoencoder 1"):
        Latent(Image([8, 8], "RGB"), net)
    with pytest.raises(KakusanError, match="mean has 3 numbers; the latent has 4"):
        Latent(image, net, [0.0] * 3)
    with pytest.raises(KakusanError, match="above 0"):
        Latent(image, net, None, [1.0, 1, 1, 0])
    with pytest.raises(KakusanError, match="train DATA --autoencoder"):
        Latent.fit([])


def model(latent: Latent):
    net = {"kind": "net/unet", "channels": 4, "width": 8, "mults": [1], "blocks": 1, "attention": []}
    built = build(
        {
            "kind": "model",
            "denoiser": {
                "kind": "denoiser", "net": net, "process": {"kind": "process/ve"}, "space": {"kind": "space/flat"},
                "param": {"kind": "param/karras", "sigma_data": 1.0},
            },
            "domain": latent.spec(),
        }
    )  # fmt: skip
    built.domain.load_state_dict(latent.state_dict())
    return built


def test_a_models_file_carries_the_frozen_autoencoder(tmp_path):
    latent = small()
    saved = model(latent)
    trained = [n for n, p in saved.named_parameters() if p.requires_grad]
    assert trained and not any(n.startswith("domain.") for n in trained)
    save_model(tmp_path / "model.safetensors", saved)
    loaded, _ = load_model(tmp_path / "model.safetensors")
    z = torch.randn(2, 4, 2, 2)
    assert loaded.domain.spec() == latent.spec() and torch.equal(loaded.domain.decode(z), latent.decode(z))


def test_an_autoencoders_file_is_no_model(tmp_path):
    save_model(tmp_path / "a.safetensors", small())
    again, _ = load_module(tmp_path / "a.safetensors")
    assert isinstance(again, Latent) and again.spec() == small().spec()
    with pytest.raises(KakusanError, match="not a model; train one in its latent: kakusan train DATA --latent"):
        load_model(tmp_path / "a.safetensors")


def batches(latent: Latent, limit: int, flip: bool = False, **more) -> Batches:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    image = seen(latent)
    latents = Latents(latent, image, pixels, flip, limit=limit)
    assert latents.kept == bool(limit)
    part = Dataset.arrays(pixels).subset(np.arange(5, 30))
    return Batches(part, image, 8, seed=3, flip=flip, latents=latents, ahead=0, **more)


@pytest.mark.parametrize("flip", [False, True])
def test_kept_latents_are_those_encoded_batch_by_batch(flip):
    latent = small()
    kept, each = batches(latent, 1 << 20, flip, reference=6), batches(latent, 0, flip, reference=6)
    for step in (0, 5):
        a, b = kept.at(step), each.at(step)
        assert a.x0.shape == (8, 4, 2, 2)
        assert torch.allclose(a.x0, b.x0, atol=0.02)  # kept in half precision
        assert torch.allclose(a.reference.x0, b.reference.x0, atol=0.02)
        assert torch.equal(kept.at(step).x0, a.x0), "a function of the step"
        assert torch.equal(batches(latent, 1 << 20, flip).at(step).x0, a.x0), "and of nothing else"
