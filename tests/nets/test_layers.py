"""The shared layers against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kakusan.nets.layers import Dense, GroupNorm, attend, fold, fourier, keep_memory, pad_to, plain_attention, unfold


def test_fold_is_pixel_unshuffle_and_unfold_its_inverse():
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    folded = fold(x, [2, 2])
    assert torch.equal(folded, F.pixel_unshuffle(x, 2))
    assert folded.is_contiguous(memory_format=torch.channels_last)
    for steps in ([1, 3], [2, 1], [4, 6]):
        assert torch.equal(unfold(fold(x, steps), steps), x)
    v = torch.arange(2 * 3 * 4 * 6 * 2.0).reshape(2, 3, 4, 6, 2)
    assert torch.equal(unfold(fold(v, [2, 3, 1]), [2, 3, 1]), v)


def test_pad_to():
    x = torch.tensor([[[1.0, 2, 3]]])
    assert pad_to(x, [2]).tolist() == [[[1, 2, 3, 0]]]
    assert pad_to(x, [5], "circular").tolist() == [[[1, 2, 3, 1, 2]]]
    assert pad_to(x, [3]) is x


@pytest.mark.parametrize("masked", [False, True])
def test_written_out_attention_is_the_kernel(masked):
    q, k, v = torch.randn(3, 2, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, True, False], [True] * 5]) if masked else None
    kernel = attend(q, k, v, mask)
    with plain_attention():
        torch.testing.assert_close(attend(q, k, v, mask), kernel)
    if masked:
        alone = attend(q[:1], k[:1, :, [0, 2, 3]], v[:1, :, [0, 2, 3]])
        torch.testing.assert_close(kernel[:1], alone)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_trained_in_bf16_is_the_kernel(masked):
    """With gradients it is written out (see FEW_KEYS), without them it is the kernel."""
    q, k, v = torch.randn(3, 2, 2, 5, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = torch.tensor([[True, False, True, True, False], [True] * 5]) if masked else None
    kernel = attend(q, k, v, mask)
    trained = attend(q.clone().requires_grad_(), k, v, mask)
    assert "ScaledDotProduct" not in type(trained.grad_fn).__name__
    torch.testing.assert_close(trained.detach(), kernel, rtol=0.02, atol=0.02)
    exact = attend(q.float().requires_grad_(), k.float(), v.float(), mask)
    assert "ScaledDotProduct" in type(exact.grad_fn).__name__


def test_dense_is_linear():
    layer = Dense(6, 10)
    x = torch.randn(3, 7, 6, requires_grad=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-6)
    layer(x).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert layer.weight.shape == (10, 6)


def test_masked_norm_is_the_norm_of_the_valid_part():
    norm = GroupNorm(32)
    x = torch.randn(2, 32, 3, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 3, 8)
    mask[..., :5] = 1
    valid = norm(x, mask)[..., :5]
    torch.testing.assert_close(valid, norm(x[..., :5]), rtol=1e-4, atol=1e-5)


def test_fourier_tells_noise_levels_apart():
    lam = torch.linspace(-10, 10, 201)
    features = fourier(lam, 64)
    assert features.shape == (201, 64)
    distance = torch.cdist(features, features) + 10 * torch.eye(201)
    assert distance.min() > 0.1
    assert torch.equal(fourier(lam.half(), 64).float(), fourier(lam.half().float(), 64))


def test_keep_memory_says_whether_it_worked():
    assert keep_memory() in (True, False)
