"""Diffusers folders: written and read as they are, and where that library is installed, its own forward pass and
sample beside ours."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from kakusan.app.draw.loaded import load
from kakusan.catalog import build
from kakusan.core.batch import NO_COND
from kakusan.core.model import Model
from kakusan.core.process import Tabulated
from kakusan.nets.unet2d import UNet2D
from kakusan.part import KakusanError
from kakusan.runtime.diffusers import (
    WEIGHTS,
    export_folder,
    scheduler_config,
    unet_config,
    unet_tensors,
)
from kakusan.runtime.fromdiffusers import model_from
from runtime.small import model as other

SHAPE = (3, 8, 16)
diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs [diffusers]")
LABEL = {"kind": "condition/label", "classes": ["cat", "dog"], "dim": 4}
AUGMENT = {"kind": "condition/vector", "size": 3, "dim": 4, "null": "zero"}


def small(encoders=None, param="param/eps", process=None, clock=None, **settings) -> Model:
    """A random network of two levels with attention at the lower, every parameter moved."""
    encoders = encoders or {}
    net = {"kind": "net/unet2d", "channels": 3, "widths": [8, 16], "layers": 1, "attention": [1], "head_dim": 4,
           "groups": 4, "vector": sum(e["dim"] for e in encoders.values()), "clock": clock} | settings  # fmt: skip
    param = {"kind": param} if isinstance(param, str) else param
    process = process or clock or {"kind": "process/tabulated"}
    denoiser = {"kind": "denoiser", "net": net, "process": process, "param": param, "space": {"kind": "space/flat"}}
    tree = {"kind": "model", "denoiser": denoiser, "encoders": encoders,
            "domain": {"kind": "domain/image", "size": [8, 16], "mode": "RGB"}}  # fmt: skip
    torch.manual_seed(0)
    made = build(tree)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return made.eval()


def put(folder: Path, made: Model, labels: int = 0, prediction: str = "epsilon", manifest: dict | None = None) -> Path:
    """A folder as the export writes it, without the comparison."""
    net = made.denoiser.net
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps(unet_config(net, SHAPE, labels)))
    safetensors.torch.save_file(unet_tensors(made), folder / "unet" / WEIGHTS)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler_config(net.clock, prediction)))
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def estimates(made: Model, label=None) -> torch.Tensor:
    """Estimates of x0 at three times; with a class where there are some."""
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    inputs = {"label": made.encoder("label").prepare([label] * 3)} if "label" in made.encoders else {}
    with torch.inference_mode():
        return made.denoiser(x, torch.tensor([0.02, 0.5, 0.98], dtype=torch.float64), made.cond(inputs, {}, 3))


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_time_steps_are_whole_at_the_clocks_entries(schedule):
    clock = Tabulated(schedule=schedule, steps=200, start=1e-3, end=0.06)
    net = UNet2D(1, [8], 1, [], groups=4, head_dim=0, clock=clock)
    lam = clock.logsnr((torch.arange(200, dtype=torch.float64) + 1) / 200).float()
    torch.testing.assert_close(net.step(lam), torch.arange(200.0), atol=2e-3, rtol=0)
    between = net.step((lam[:-1] + lam[1:]) / 2)
    torch.testing.assert_close(between, torch.arange(199.0) + 0.5, atol=2e-2, rtol=0)
    assert net.step(torch.tensor([10.0, -10.0])).tolist() == [0.0, 199.0]


@pytest.mark.parametrize("sizes", [(8, 16), (9, 13), (1, 1)])
@pytest.mark.parametrize("padding", [0, 1])
def test_any_size_and_every_gradient(sizes, padding):
    net = small(down_padding=padding, widths=[8, 16, 16]).denoiser.net.train()
    x = torch.randn(2, 3, *sizes, generator=torch.Generator().manual_seed(0))
    y = net(x, torch.tensor([-3.0, 3.0]), NO_COND)
    assert y.shape == x.shape
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    quiet = ("group_norm", "to_q", "to_k") if sizes == (1, 1) else ("to_k.bias",)  # softmax over one, or of a constant
    assert all(any(word in name for word in quiet) for name in silent)
    alone = net.eval()(x[:1], torch.tensor([-3.0]), NO_COND)
    torch.testing.assert_close(alone, y[:1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("betas", [{"schedule": "linear"}, {"schedule": "cosine"}, {"table": [0.01, 0.2, 0.3]}])
@pytest.mark.parametrize("prediction, param", [("epsilon", "param/eps"), ("v_prediction", "param/v")])
def test_what_is_written_is_read_back_to_the_bit(tmp_path, betas, prediction, param):
    made = small(param=param, clock={"kind": "process/tabulated"} | betas)
    back = model_from(put(tmp_path / "out", made, prediction=prediction))
    assert back.denoiser.param.kind == param
    assert torch.equal(back.denoiser.process.angles, made.denoiser.process.angles)
    assert torch.equal(estimates(back), estimates(made))
    assert back.domain.size == (8, 16) and back.domain.mode == "RGB"


def test_classes_become_rows_and_rows_classes(tmp_path):
    made = small({"label": LABEL, "augment": AUGMENT})
    folder = put(tmp_path / "out", made, 3, manifest={"classes": ["cat", "dog"], "domain": made.domain.spec()})
    back = model_from(folder)
    assert back.encoder("label").names == ["cat", "dog"]
    for label in ("cat", "dog", None):
        torch.testing.assert_close(estimates(back, label), estimates(made, label), atol=1e-5, rtol=1e-5)
    assert (estimates(made, "cat") - estimates(made, "dog")).abs().max() > 1e-3
    (folder / "manifest.json").unlink()
    assert model_from(folder).encoder("label").names == ["0", "1", "2"]


def test_what_augmentation_is_told_becomes_part_of_a_bias(tmp_path):
    made = small({"augment": AUGMENT})
    with torch.no_grad():
        made.denoiser.net.vector_in.weight.mul_(10)
        next(made.encoder("augment").parameters()).mul_(10)
    torch.testing.assert_close(estimates(model_from(put(tmp_path / "out", made))), estimates(made), atol=1e-5, rtol=0)


def test_karras_at_one_is_minus_v(tmp_path):
    made = small(param={"kind": "param/karras", "sigma_data": 1.0}, process={"kind": "process/vp"})
    back = model_from(put(tmp_path / "out", made, prediction="v_prediction"))
    x = torch.randn(2, *SHAPE)
    for lam in (-3.0, 0.0, 3.0):
        t, s = (m.denoiser.process.time(torch.tensor(lam, dtype=torch.float64)) for m in (made, back))
        torch.testing.assert_close(made.denoiser(x, t), back.denoiser(x, s), atol=1e-5, rtol=0)


def test_a_folder_is_a_model_for_every_verb(tmp_path, monkeypatch):
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    folder = put(tmp_path / "out", small())
    loaded = load(folder, "cpu")
    assert loaded.info()["defaults"]["solver"] == {"kind": "solver/ddim"}
    (sample,) = loaded.sample(1, steps=3)
    assert sample.record.data.shape == (8, 16, 3)
    assert load(folder, "cpu").path == loaded.path
    shutil.copytree(folder / "unet", tmp_path / "alone")  # without a scheduler: DDPM's betas
    assert torch.equal(estimates(load(tmp_path / "alone", "cpu").model), estimates(loaded.model))


def test_names_of_old_files_are_read(tmp_path):
    folder = put(tmp_path / "out", small())
    tensors = safetensors.torch.load_file(folder / "unet" / WEIGHTS)
    for new, old in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "unet" / WEIGHTS)
    assert torch.equal(estimates(model_from(folder)), estimates(small()))


@pytest.mark.parametrize(
    "file, change, said",
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "kakusan reads UNet2DModel"),
        ("unet/config.json", {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift'"),
        ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ("unet/config.json", {"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "'SkipDownBlock2D'"),
        ("unet/config.json", {"out_channels": 6}, "learned variances"),
        ("unet/config.json", {"block_out_channels": [8, 32]}, "its config.json asks for"),
        ("unet/config.json", {"block_out_channels": [8, 10**9]}, "cannot be built"),
        ("unet/config.json", {"layers_per_block": 10**9}, "1 to 12 are read"),
        ("unet/config.json", {"block_out_channels": 8}, "values of another type"),
        ("unet/config.json", {"sorcery": 1}, "its entry 'sorcery' is not known"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "not a table of betas"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type='flow'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "laplace"}, "beta_schedule='laplace'"),
        ("scheduler/scheduler_config.json", {"trained_betas": "0.1"}, "takes"),
    ],
)
def test_what_cannot_be_held_is_said_in_one_line(tmp_path, file, change, said):
    folder = put(tmp_path / "out", small())
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(KakusanError, match=said) as caught:
        model_from(folder)
    assert "\n" not in str(caught.value)


def test_pickles_and_damage_are_refused(tmp_path):
    folder = put(tmp_path / "out", small())
    weights = folder / "unet" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(KakusanError, match="not a whole safetensors file"):
        model_from(folder)
    weights.rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(KakusanError, match="a pickle, which is never opened"):
        model_from(folder)
    (folder / "unet" / "config.json").write_text("[]")
    weights.write_bytes(b"")
    with pytest.raises(KakusanError, match="not a table"):
        model_from(folder)


@pytest.mark.parametrize(
    "made, said",
    [
        (lambda: other(), "cannot hold net/unet: its bypass .*net.kind=net/unet2d"),
        (lambda: other("net/dit", {}), "cannot hold net/dit: it has no convolutions"),
        (lambda: small(param="param/karras"), "cannot hold param/karras: UNet2DModel does not scale its input"),
        (lambda: small(param="param/velocity"), "cannot hold param/velocity"),
        (lambda: small(process={"kind": "process/ve"}), "cannot hold process/ve"),
        (lambda: small({"numbers": {"kind": "condition/vector", "size": 5, "dim": 4}}), "the condition 'numbers'"),
        (lambda: small(widths=[8, 8, 8, 8, 8]), "a multiple of 16"),
    ],
)
def test_what_diffusers_cannot_hold_names_the_operation(tmp_path, made, said):
    with pytest.raises(KakusanError, match=said) as caught:
        export_folder(made(), SHAPE, 4, tmp_path / "out", tmp_path / "ledger", {})
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@diffusers
@pytest.mark.parametrize(
    "settings",
    [
        {"clock": {"kind": "process/tabulated", "schedule": "scaled_linear", "start": 0.00085, "end": 0.012}},
        {"param": "param/v", "clock": {"kind": "process/tabulated", "schedule": "cosine", "zero_terminal": True},
         "down_padding": 0, "middle": False, "head_dim": 0, "embedding": 12, "freq_shift": 1.0, "cos_first": False},
        {"param": "param/x0", "encoders": {"label": LABEL, "augment": AUGMENT},
         "clock": {"kind": "process/tabulated", "schedule": "sigmoid", "steps": 50}},
        {"param": {"kind": "param/karras", "sigma_data": 1.0}, "process": {"kind": "process/vp"}},
    ],
)  # fmt: skip
def test_diffusers_computes_the_same(tmp_path, settings):
    done = export_folder(small(**settings), SHAPE, 7, tmp_path / "out", tmp_path / "ledger", {"model": "abc"})
    assert done.checked.evaluation < 1e-4 and done.checked.sample < 1 / 255
    assert "against Diffusers" in done.words()
    there = {"unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"}
    assert set(done.files) == there | ({"model_index.json"} if "encoders" not in settings else set())


@diffusers
def test_a_network_that_differs_is_not_kept(tmp_path, monkeypatch):
    from kakusan.runtime import diffusers as module

    def wrong(made):
        return {name: v * 1.01 if name == "conv_in.weight" else v for name, v in unet_tensors(made).items()}

    monkeypatch.setattr(module, "unet_tensors", wrong)
    with pytest.raises(KakusanError, match=r"one evaluation differs from Diffusers by .* its files were deleted"):
        export_folder(small(), SHAPE, 4, tmp_path / "out", tmp_path / "ledger", {})
    assert list(tmp_path.iterdir()) == []


@diffusers
def test_what_diffusers_saves_is_read_and_drawn_alike(tmp_path, monkeypatch):
    """Its own pipeline, from its own initial weights, saved by itself."""
    from diffusers import DDIMPipeline, DDPMScheduler, UNet2DModel

    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=16,
        down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D"),
    )  # fmt: skip
    DDIMPipeline(unet.eval(), DDPMScheduler(clip_sample=False)).save_pretrained(tmp_path / "out")
    loaded = load(tmp_path / "out", "cpu")
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "out")
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(8)
    x = start = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    for step in scheduler.timesteps:
        x = scheduler.step(unet(x, step).sample, step, x, eta=0.0).prev_sample
    from kakusan.core.grid import Discrete
    from kakusan.core.rng import Rng
    from kakusan.core.sample import run, sample
    from kakusan.core.solver import DDIM

    denoiser = loaded.model.denoiser
    times = Discrete("leading").times(8, denoiser.process)
    with torch.inference_mode():
        drawn = run(sample(denoiser_of(denoiser), start, times, DDIM(), denoiser.process, denoiser.space, Rng([0, 1])))
    assert (drawn - x).abs().max() <= 1 / 255 * x.abs().max()


def denoiser_of(denoiser):
    return lambda x, t, s: denoiser(x, t)
