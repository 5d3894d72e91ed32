"""Guidance arithmetic, which branches are evaluated, and the model's one batched evaluation of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kakusan.core.batch import Cond
from kakusan.core.denoiser import Denoiser, Net
from kakusan.core.guide import Autoguidance, Chain, ClassifierFree, Interval, Plain, Several, pair
from kakusan.core.model import Encoder, Model
from kakusan.core.param import Karras, V
from kakusan.core.process import VE, VP
from kakusan.core.space import Flat
from kakusan.nets.unet import UNet
from kakusan.part import KakusanError

PROCESS = VP("cosine")
T = torch.tensor(0.5, dtype=torch.float64)


class Small(Net):
    """A network that uses every port."""

    kind = "test/small"

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.vector, self.level, self.calls = nn.Linear(width, 1), nn.Linear(1, 1), []

    def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
        self.calls.append(len(x))
        shift = self.level(lam[:, None])
        if cond.vector is not None:
            shift = shift + self.vector(cond.vector)
        if cond.tokens is not None:
            shift = shift + cond.tokens.mean((1, 2))[:, None]
        return torch.tanh(x + shift[..., None])


class Class(Encoder):
    """A label with a learned null."""

    kind = "test/class"

    def __init__(self, classes: int = 4, dim: int = 3) -> None:
        super().__init__()
        self.table, self.classes = nn.Embedding(classes + 1, dim), classes

    def prepare(self, values: list[int | None]) -> dict[str, Tensor]:
        return {"index": torch.tensor([self.classes if v is None else v for v in values])}

    def forward(self, inputs: dict[str, Tensor], keep: Tensor) -> Cond:
        return Cond(vector=self.table(torch.where(keep, inputs["index"], self.classes)))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(Denoiser(Small(6), PROCESS, V(), Flat()), None, {"label": Class(), "style": Class()})


def fixed(*values: float):
    """Branches that return constants and note which of them were asked for."""
    asked = []

    def branches(x: Tensor, t: Tensor, s: Tensor, which: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        chosen = range(len(values)) if which is None else which
        asked.append(tuple(chosen))
        return tuple(torch.full_like(x, values[i]) for i in chosen)

    return branches, asked


def value(guide, *values: float, t: Tensor = T) -> float:
    return float(guide(fixed(*values)[0])(torch.zeros(1, 1), t, t))


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 2.0), (1.0, 5.0), (3.0, 11.0), (-1.0, -1.0), (0.5, 3.5)])
def test_classifier_free(weight, expected):
    assert value(ClassifierFree(weight), 2.0, 5.0) == pytest.approx(expected)


def test_plain_several_and_chain():
    assert value(Plain(), 7.0) == 7
    assert value(Several([2.0, 0.5]), 1.0, 3.0, 7.0) == 1 + 2 * 2 + 0.5 * 6
    assert value(Chain([1.5, 7.0]), 1.0, 3.0, 4.0) == 1 + 1.5 * 2 + 7 * 1
    assert value(Chain([1.0, 1.0]), 1.0, 3.0, 4.0) == 4
    assert Several([2.0, 0.5]).branches == Chain([2.0, 0.5]).branches == 3


def test_interval_guides_inside_and_skips_the_others_outside():
    guide = Interval(ClassifierFree(3.0), PROCESS, -1.0, 1.0)
    for lam, expected, which in ((0.0, 11.0, (0, 1)), (1.5, 5.0, (1,)), (-1.5, 5.0, (1,))):
        branches, asked = fixed(2.0, 5.0)
        t = PROCESS.time(torch.tensor(lam, dtype=torch.float64))
        assert float(guide(branches)(torch.zeros(1, 1), t, t)) == pytest.approx(expected)
        assert asked == [which]


def test_interval_needs_one_time():
    with pytest.raises(KakusanError, match="one time"):
        Interval(Plain(), PROCESS)(fixed(1.0)[0])(torch.zeros(2, 1), T.expand(2), T)
    with pytest.raises(KakusanError, match="low < high"):
        Interval(Plain(), PROCESS, 1.0, -1.0)


@pytest.mark.parametrize("make", [lambda: Several([]), lambda: Chain([])])
def test_no_weights_are_refused(make):
    with pytest.raises(KakusanError, match="weights"):
        make()


def test_pair_is_autoguidance():
    """D_weak + w (D_strong - D_weak), where each model gives its fully conditioned branch."""
    weak, strong = fixed(9.0, 2.0), fixed(5.0)
    both = pair(weak[0], strong[0])
    x = torch.zeros(1, 1)
    assert float(ClassifierFree(2.0)(both)(x, T, T)) == 2 + 2 * 3
    assert [float(v) for v in both(x, T, T, (1,))] == [5.0]
    assert len(weak[1]) == 1


def test_autoguidance_beside_classifier_free():
    """G + (w - 1) (D_c - D_weak), G = D_u + 3 (D_c - D_u); each branch is evaluated once."""
    weak, strong = fixed(2.0), fixed(4.0, 5.0)
    guide = Autoguidance(1.5, ClassifierFree(3.0))
    x = torch.zeros(1, 1)
    assert guide.branches == 3
    assert float(guide(pair(weak[0], strong[0]))(x, T, T)) == 4 + 3 * 1 + 0.5 * 3
    assert [float(v) for v in pair(weak[0], strong[0])(x, T, T, (2, 0))] == [5.0, 2.0]
    assert float(Autoguidance(1.0)(pair(weak[0], fixed(7.0)[0]))(x, T, T)) == 7


def test_branches_equal_separate_evaluations(model):
    x = torch.randn(3, 2, 5)
    labels = model.encoder("label").prepare([0, 1, 2])
    conds = [
        model.cond({}, {}, 3),
        model.cond({"label": labels}, {}, 3),
        model.cond({"label": labels, "style": model.encoder("style").prepare([3, 3, None])}, {}, 3),
    ]
    branches, net = model.branches(conds), model.denoiser.net
    for time in (T, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)):
        net.calls.clear()
        together = branches(x, time, time)
        assert net.calls == [9]
        for cond, estimate in zip(conds, together, strict=True):
            torch.testing.assert_close(estimate, model.denoiser(x, time, cond), atol=1e-6, rtol=0)
        net.calls.clear()
        (last,) = branches(x, time, time, (2,))
        assert net.calls == [3]
        torch.testing.assert_close(last, together[2], atol=1e-6, rtol=0)


def test_guidance_weights_zero_and_one_on_a_model(model):
    x = torch.randn(2, 2, 5)
    conds = [model.cond({}, {}, 2), model.cond({"label": model.encoder("label").prepare([1, 2])}, {}, 2)]
    for weight, cond in ((0.0, conds[0]), (1.0, conds[1])):
        guided = ClassifierFree(weight)(model.branches(conds))(x, T, T)
        torch.testing.assert_close(guided, model.denoiser(x, T, cond), atol=1e-6, rtol=0)


def test_null_is_what_no_input_and_a_dropped_one_give(model):
    none = model.cond({}, {}, 2)
    dropped = {"label": torch.tensor([False, False]), "style": torch.tensor([False, False])}
    given = {name: model.encoder(name).prepare([1, 2]) for name in ("label", "style")}
    assert torch.equal(none.vector, model.cond(given, dropped, 2).vector)
    assert torch.equal(none.vector, model.cond({n: model.encoder(n).null(2) for n in given}, {}, 2).vector)
    half = model.cond(given, {"label": torch.tensor([True, False])}, 2).vector
    full = model.cond(given, {}, 2).vector
    assert torch.equal(half[0], full[0])
    assert torch.equal(half[1, :3], none.vector[1, :3])
    assert torch.equal(half[1, 3:], full[1, 3:])


def test_a_condition_that_the_model_lacks_is_named(model):
    with pytest.raises(KakusanError, match=r"'labl'.*label, style"):
        model.cond({"labl": {}}, {}, 1)


def test_branches_that_use_different_ports_are_refused(model):
    with pytest.raises(KakusanError, match="'vector'"):
        model.branches([Cond(), Cond(vector=torch.zeros(1, 6))])


def test_a_model_without_parameters_or_conditions():
    class Nothing(Net):
        kind = "test/nothing"

        def forward(self, x: Tensor, lam: Tensor, cond: Cond) -> Tensor:
            return x

    model = Model(Denoiser(Nothing(), PROCESS, V(), Flat()))
    assert model.cond({}, {}, 2) == Cond()


def test_merge_concatenates_ports_in_order():
    a = Cond(vector=torch.ones(2, 1), tokens=torch.ones(2, 2, 3), field=torch.ones(2, 1, 4))
    mask = torch.tensor([[True], [False]])
    b = Cond(vector=torch.zeros(2, 2), tokens=torch.zeros(2, 1, 3), tokens_mask=mask, field=torch.zeros(2, 2, 4))
    both = Cond.merge([a, b], torch.ones(2, 4, dtype=torch.bool))
    assert both.vector.tolist() == [[1, 0, 0]] * 2
    assert both.tokens.shape == (2, 3, 3)
    assert both.tokens_mask.tolist() == [[True, True, True], [True, True, False]]
    assert both.field.shape == (2, 3, 4)
    assert bool(both.mask.all())
    halved = both.map(lambda v: v[:1])
    assert len(halved.vector) == len(halved.mask) == 1
    assert Cond.merge([]) == Cond()


def test_branches_of_different_length_are_what_each_alone_would_be():
    """Prompts of other lengths, one of them without a mask: padding is masked and changes nothing."""
    torch.manual_seed(0)
    net = UNet(1, width=8, mults=[1, 1], blocks=1, attention=[1], tokens=6)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn_like(p))
    model = Model(Denoiser(net, VE(), Karras(0.5), Flat()))
    real = torch.tensor([[True, True, False, False], [True, True, True, True]])
    conds = [
        Cond(tokens=torch.randn(2, 1, 6)),
        Cond(tokens=torch.randn(2, 4, 6), tokens_mask=real),
        Cond(tokens=torch.randn(2, 3, 6), tokens_mask=torch.ones(2, 3, dtype=torch.bool)),
    ]
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    joint = model.branches(conds)(x, t, t)
    for cond, found in zip(conds, joint, strict=True):
        (alone,) = model.branches([cond])(x, t, t)
        assert torch.allclose(found, alone, atol=1e-5)
    assert not torch.allclose(joint[0], joint[1], atol=1e-3)
