"""Both networks keep the contract of a Net: any size, every port, exact masks, independence of the batch."""

from __future__ import annotations

import pytest
import torch

from kakusan.core.batch import NO_COND, Cond
from kakusan.nets.dit import DiT
from kakusan.nets.layers import plain_attention
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError


def unet(channels=2, **kw):
    return UNet(channels, **({"width": 16, "mults": [1, 2], "blocks": 1, "attention": [1], "heads": 2} | kw))


def dit(channels=2, **kw):
    return DiT(channels, **({"patch": 2, "width": 24, "depth": 2, "heads": 2} | kw))


def lighter(channels=2, **kw):
    return unet(channels, **({"activations": 1} | kw))


def lean(channels=2, **kw):
    return lighter(channels, **({"kernels": [3, 1]} | kw))


MAKERS = pytest.mark.parametrize("make", [unet, lighter, lean, dit])


def shaken(net, seed=0):
    """The net with every parameter moved, so that nothing is hidden behind a layer that starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net.eval()


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def every_port(sizes, batch=2):
    return Cond(
        vector=draw(batch, 5),
        tokens=draw(batch, 3, 6),
        tokens_mask=torch.tensor([[True, True, False]] * batch),
        field=draw(batch, 1, *sizes),
        mask=torch.ones(batch, *sizes, dtype=torch.bool),
    )


PORTS = {"vector": 5, "tokens": 6, "field": 1}


@MAKERS
@pytest.mark.parametrize("sizes", [(1,), (31,), (64,), (1, 1), (28, 28), (50, 67), (5, 6, 7)])
def test_any_size(make, sizes):
    net = shaken(make(dims=len(sizes)))
    x = draw(2, 2, *sizes)
    y = net(x, torch.tensor([-10.0, 10.0]), NO_COND)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert y.std() > 0


@pytest.mark.parametrize("sizes", [(13,), (9, 14), (3, 5, 4)])
@pytest.mark.parametrize("unshuffle", [1, 2, 3])
def test_unshuffle_and_circular(sizes, unshuffle):
    net = shaken(unet(dims=len(sizes), unshuffle=unshuffle, padding="circular"))
    x = draw(2, 2, *sizes)
    assert net(x, torch.zeros(2), NO_COND).shape == x.shape


@MAKERS
@pytest.mark.parametrize("sizes", [(9,), (7, 8), (3, 4, 5)])
def test_every_port_and_every_gradient(make, sizes):
    net = shaken(make(dims=len(sizes), **PORTS)).train()
    y = net(draw(2, 2, *sizes), torch.tensor([-1.0, 2.0]), every_port(sizes))
    (y * draw(*y.shape, seed=3)).sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@MAKERS
def test_starts_at_exactly_zero(make):
    net = make(**PORTS)
    assert not net(draw(2, 2, 8, 8), torch.zeros(2), every_port((8, 8))).any()


@MAKERS
def test_ports_attach_without_a_change(make):
    """The weights of a network without ports, loaded into one with all of them, give the same output."""
    plain, ported = shaken(make()), make(**PORTS).eval()
    missing = ported.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert missing.missing_keys
    x, lam, cond = draw(2, 2, 8, 8), torch.tensor([0.0, 1.0]), every_port((8, 8))
    cond = Cond(vector=cond.vector, tokens=cond.tokens, tokens_mask=cond.tokens_mask, field=cond.field)
    torch.testing.assert_close(ported(x, lam, cond), plain(x, lam, NO_COND), rtol=0, atol=1e-6)


@MAKERS
def test_each_port_matters(make):
    net, sizes = shaken(make(**PORTS)), (8, 8)
    full = every_port(sizes)
    x, lam = draw(2, 2, *sizes), torch.zeros(2)
    base = net(x, lam, full)
    for name in PORTS:
        other = Cond(**{**vars(full), name: getattr(full, name) + 1})
        assert (net(x, lam, other) - base).abs().max() > 1e-4, name
    assert (net(x, lam + 1, full) - base).abs().max() > 1e-4


@MAKERS
def test_independent_of_the_batch(make):
    net, cond = shaken(make(**PORTS)), every_port((9, 9), batch=3)
    x, lam = draw(3, 2, 9, 9), torch.tensor([-2.0, 0.0, 3.0])
    together = net(x, lam, cond)
    for i in range(3):
        alone = net(x[i : i + 1], lam[i : i + 1], cond.map(lambda v, i=i: v[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=2e-5)


@MAKERS
def test_masked_tokens_are_ignored(make):
    net, full = shaken(make(**PORTS)), every_port((8, 8))
    x, lam = draw(2, 2, 8, 8), torch.zeros(2)
    tokens = full.tokens.clone()
    tokens[:, 2] = 100.0
    torch.testing.assert_close(net(x, lam, Cond(**{**vars(full), "tokens": tokens})), net(x, lam, full))
    short = Cond(**{**vars(full), "tokens": full.tokens[:, :2], "tokens_mask": None})
    torch.testing.assert_close(net(x, lam, short), net(x, lam, full), rtol=1e-4, atol=2e-5)
    nothing = Cond(**{**vars(full), "tokens_mask": torch.zeros(2, 3, dtype=torch.bool)})
    absent = Cond(**{**vars(full), "tokens": None, "tokens_mask": None})
    torch.testing.assert_close(net(x, lam, nothing), net(x, lam, absent), rtol=1e-4, atol=2e-5)


@MAKERS
def test_nothing_passes_from_masked_positions(make):
    net = shaken(make(dims=1, **PORTS))
    mask = torch.arange(20) < torch.tensor([[13], [20]])
    cond = Cond(**{**vars(every_port((20,))), "mask": mask})
    x, lam = draw(2, 2, 20), torch.zeros(2)
    y = net(x, lam, cond)
    noisy = x + 50 * ~mask[:, None]
    field = Cond(**{**vars(cond), "field": cond.field + 50 * ~mask[:, None]})
    torch.testing.assert_close(net(noisy, lam, field), y)
    assert not y[0, :, 13:].any()
    assert y[0, :, :13].any()


@pytest.mark.parametrize("length", [1, 12, 13, 17])
@pytest.mark.parametrize("unshuffle", [1, 2])
@pytest.mark.parametrize("unet", [unet, lighter])
def test_unet_padding_changes_nothing(unet, length, unshuffle):
    """A short signal padded into a longer batch gives what it gives alone, attention and norms included."""
    net = shaken(unet(dims=1, mults=[1, 2, 2], attention=[1, 2], unshuffle=unshuffle))
    x, lam = draw(1, 2, length), torch.tensor([0.5])
    padded = torch.cat([x, draw(1, 2, 24 - length, seed=9)], 2)
    mask = (torch.arange(24) < length)[None]
    y = net(padded, lam, Cond(mask=mask))
    torch.testing.assert_close(y[:, :, :length], net(x, lam, NO_COND), rtol=1e-4, atol=2e-5)


@MAKERS
def test_full_mask_is_no_mask_and_empty_mask_is_finite(make):
    net, x, lam = shaken(make()), draw(2, 2, 10, 6), torch.zeros(2)
    full = torch.ones(2, 10, 6, dtype=torch.bool)
    torch.testing.assert_close(net(x, lam, Cond(mask=full)), net(x, lam, NO_COND), rtol=1e-4, atol=2e-5)
    assert not net(x, lam, Cond(mask=~full)).any()


def test_circular_padding_commutes_with_a_roll():
    net = shaken(unet(padding="circular", unshuffle=2))
    x, lam = draw(1, 2, 16, 16), torch.zeros(1)
    rolled = net(x.roll((4, 8), (2, 3)), lam, NO_COND)
    torch.testing.assert_close(rolled, net(x, lam, NO_COND).roll((4, 8), (2, 3)), rtol=1e-4, atol=2e-5)


@MAKERS
def test_forward_mode_derivative(make):
    """With attention written out a Jacobian-vector product exists and is the finite difference."""
    net = shaken(make(**PORTS)).double()
    cond = every_port((6, 6)).map(lambda v: v.double() if v.is_floating_point() else v)
    x, dx, lam = draw(2, 2, 6, 6).double(), draw(2, 2, 6, 6, seed=2).double(), torch.zeros(2).double()
    with plain_attention():
        y, dy = torch.func.jvp(lambda x: net(x, lam, cond), (x,), (dx,))
    h = 1e-5
    torch.testing.assert_close(y, net(x, lam, cond))
    slope = (net(x + h * dx, lam, cond) - net(x - h * dx, lam, cond)) / (2 * h)
    torch.testing.assert_close(dy, slope, rtol=1e-4, atol=1e-5)


@MAKERS
def test_spec_rebuilds(make):
    net = make(dims=3, dropout=0.1, **PORTS)
    spec = net.spec()
    assert spec.pop("kind") == net.kind
    twin = type(net)(**spec)
    assert {n: p.shape for n, p in twin.named_parameters()} == {n: p.shape for n, p in net.named_parameters()}
    assert twin.spec() == net.spec()


@MAKERS
def test_dropout_only_in_training(make):
    net, x, lam = shaken(make(dropout=0.5)), draw(1, 2, 8, 8), torch.zeros(1)
    assert torch.equal(net(x, lam, NO_COND), net(x, lam, NO_COND))
    net.train()
    with torch.random.fork_rng():
        assert not torch.equal(net(x, lam, NO_COND), net(x, lam, NO_COND))


@MAKERS
def test_hidden_are_the_inner_matrices(make):
    net = make(**PORTS)
    hidden, parameters = net.hidden(), dict(net.named_parameters())
    assert hidden <= set(parameters)
    assert all(parameters[name].ndim >= 2 for name in hidden)
    assert {"embed.1.weight", "modulate.weight"} <= hidden
    assert not any(n.startswith(("stem", "out", "embed.0", "field_stem", "vector_in", "null")) for n in hidden)
    assert sum(parameters[n].numel() for n in hidden) > 0.5 * sum(p.numel() for p in parameters.values())


@MAKERS
def test_refusals_name_the_argument(make):
    net, lam = make(**PORTS), torch.zeros(2)
    x = draw(2, 2, 8, 8)
    for bad in (draw(2, 3, 8, 8), draw(2, 2, 8), draw(2, 2, 0, 8)):
        with pytest.raises(KakusanError, match="x has shape"):
            net(bad, lam, NO_COND)
    with pytest.raises(KakusanError, match="vector"):
        net(x, lam, Cond(vector=draw(2, 4)))
    with pytest.raises(KakusanError, match="tokens=6"):
        make(vector=5)(x, lam, Cond(tokens=draw(2, 3, 6)))
    with pytest.raises(KakusanError, match="field"):
        net(x, lam, Cond(field=draw(2, 1, 8, 9)))
    with pytest.raises(KakusanError, match="mask"):
        net(x, lam, Cond(mask=torch.ones(2, 8, dtype=torch.bool)))
    with pytest.raises(KakusanError, match="dims=4"):
        make(dims=4)
    with pytest.raises(KakusanError, match="heads=5"):
        make(heads=5)


def test_unet_refuses_levels_and_padding_it_has_not():
    with pytest.raises(KakusanError, match="attention"):
        unet(attention=[2])
    with pytest.raises(KakusanError, match="padding"):
        unet(padding="mirror")


@MAKERS
def test_bfloat16_autocast(make):
    net, x, lam = shaken(make()), draw(2, 2, 12, 12), torch.zeros(2)
    exact = net(x, lam, NO_COND)
    with torch.autocast("cpu", torch.bfloat16):
        near = net(x, lam, NO_COND)
    assert near.dtype == x.dtype
    assert (near - exact).norm() < 0.05 * exact.norm()
    with torch.autocast("cpu", torch.bfloat16):
        masked = net(x, lam, Cond(mask=torch.ones(2, 12, 12, dtype=torch.bool)))
    assert (masked - exact).norm() < 0.05 * exact.norm()


class _Plain(torch.nn.Module):
    """A net whose condition is one tensor, as an exported graph takes it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, lam, vector):
        return self.net(x, lam, Cond(vector=vector))


@MAKERS
def test_exports_with_any_batch(make):
    net = _Plain(shaken(make(vector=5)))
    args = draw(2, 2, 7, 7), torch.zeros(2), draw(2, 5)
    batch = torch.export.Dim("batch", min=1, max=64)
    graph = torch.export.export(net, args, dynamic_shapes=({0: batch},) * 3).module()
    other = draw(3, 2, 7, 7), torch.zeros(3), draw(3, 5)
    torch.testing.assert_close(graph(*other), net(*other), rtol=1e-4, atol=2e-5)


def test_a_field_changes_nothing_at_first():
    """A field added to a trained network leaves it as it was, and its way past the trunk learns from the first step."""
    torch.manual_seed(0)
    bare = UNet(2, width=16, mults=[1, 2], blocks=1, attention=[1], unshuffle=2)
    torch.nn.init.normal_(bare.out.weight)
    wide = bare.replace(field=3)
    missing = wide.load_state_dict(bare.state_dict(), strict=False)
    assert all(n.startswith("field") for n in missing.missing_keys) and not missing.unexpected_keys
    x, lam = draw(2, 2, 9, 12), torch.tensor([0.3, -2.0])
    field = draw(2, 3, 9, 12)
    out = wide(x, lam, Cond(field=field))
    torch.testing.assert_close(out, bare(x, lam, Cond()))
    out.square().sum().backward()
    assert float(wide.field_bypass.weight.grad.abs().sum()) > 0
    assert float(wide.field_stem.weight.grad.abs().sum()) > 0


def test_what_is_learnt_from_pieces_holds_for_whole_pictures():
    """Without attention and with norms of single pixels, a piece does not know what it was cut from."""
    torch.manual_seed(1)
    net = UNet(2, width=16, mults=[1, 1], blocks=1, attention=[], unshuffle=2, field=3, norm="pixel")
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, field, lam = draw(1, 2, 96, 96), draw(1, 3, 96, 96), torch.tensor([0.5])
    with torch.no_grad():
        whole = net(x, lam, Cond(field=field))
        piece = net(x[..., 16:80, 16:80], lam, Cond(field=field[..., 16:80, 16:80]))
        grouped = net.replace(norm="group")
        grouped.load_state_dict(net.state_dict())
        other = grouped(x[..., 16:80, 16:80], lam, Cond(field=field[..., 16:80, 16:80]))
        differs = (grouped(x, lam, Cond(field=field))[..., 40:56, 40:56] - other[..., 24:40, 24:40]).abs().max()
    torch.testing.assert_close(whole[..., 40:56, 40:56], piece[..., 24:40, 24:40], atol=1e-5, rtol=1e-5)
    assert float(differs) > 1e-3
    with pytest.raises(KakusanError, match="norm='batch'"):
        UNet(1, norm="batch")


def test_a_block_of_one_activation_has_one_norm_and_the_same_weights():
    two, one = shaken(unet()), lighter()
    one.load_state_dict(two.state_dict())
    block, x, scale, shift = one.levels[0].down[0], draw(2, 16, 6, 6), draw(2, 16, 1, 1), draw(2, 16, 1, 1, seed=2)
    inner = torch.nn.functional.silu(block.conv0(block.norm0(x, None)) * scale + shift)
    assert torch.allclose(block(x, scale, shift, None), x + block.conv1(inner), atol=1e-5)
    assert not torch.allclose(two.levels[0].down[0](x, scale, shift, None), block(x, scale, shift, None), atol=1e-2)
    with pytest.raises(KakusanError, match="activations=3"):
        unet(activations=3)


def test_the_second_convolution_of_a_lean_block_looks_at_one_place_alone():
    def reach(net):
        block, x = net.levels[0].down[0], draw(1, 16, 9, 9)
        x.requires_grad_()
        block(x, torch.ones(1, 16, 1, 1), torch.zeros(1, 16, 1, 1), None)[0, 0, 4, 4].backward()
        return int((x.grad.abs().sum((0, 1)) > 1e-3).sum(0).max())

    wide, narrow = shaken(unet(norm="pixel")), shaken(lean(norm="pixel"))
    assert (reach(wide), reach(narrow)) == (5, 3)
    convolutions = [sum(p.numel() for p in net.levels.parameters() if p.ndim == 4) for net in (wide, narrow)]
    assert convolutions[1] < 0.65 * convolutions[0]
    for wrong in ([3], [3, 2], [3, 9]):
        with pytest.raises(KakusanError, match=r"kernels=.*two odd sizes up to 7"):
            unet(kernels=wrong)
