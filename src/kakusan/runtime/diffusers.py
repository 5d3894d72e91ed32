"""Diffusers: a model of ``net/unet2d`` as a folder of Hugging Face Diffusers, compared with that library on the spot.

The folder holds ``unet/`` (a ``UNet2DModel``), ``scheduler/`` (a ``DDIMScheduler``) and, without labels,
``model_index.json``, so that ``DDIMPipeline`` reads it whole.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.checkpoint import write_tensors
from kakusan.core.batch import Cond
from kakusan.core.denoiser import Denoiser
from kakusan.core.grid import Discrete
from kakusan.core.model import Model
from kakusan.core.param import X0, Eps, Karras, V
from kakusan.core.process import Tabulated
from kakusan.core.rng import Rng
from kakusan.core.sample import run, sample
from kakusan.core.solver import DDIM
from kakusan.core.space import Flat
from kakusan.domains.latent import Latent
from kakusan.files import write_json
from kakusan.nets.unet2d import UNet2D
from kakusan.part import KakusanError
from kakusan.runtime.bundle import seal
from kakusan.runtime.export import Exported
from kakusan.runtime.graph import need
from kakusan.runtime.verify import EVALUATION, SAMPLE, Checked, apart, within

__all__ = ["BETAS", "PREDICTIONS", "WEIGHTS", "export_folder", "scheduler_config", "unet_config", "unet_tensors"]

Tree = dict[str, Any]

WEIGHTS = "diffusion_pytorch_model.safetensors"
PREDICTIONS = {"epsilon": Eps.kind, "v_prediction": V.kind, "sample": X0.kind}
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}  # theirs -> ours
_VERSION = "0.31.0"  # of Diffusers, whose files these are
_OTHERS = {
    "net/unet": "its bypass (a 1x1 convolution around the whole network, scaled by the noise level) and its single "
    "projection of skips have no counterpart there",
    "net/dit": "it has no convolutions: its adaLN blocks have no counterpart there",
}


def export_folder(
    model: Model,
    shape: tuple[int, ...],
    steps: int,
    out: Path,
    ledger: Path,
    about: Mapping[str, Any],
    say: Callable[[str], None] = lambda words: None,
) -> Exported:
    """Write ``out``; new, or not at all. Compared with Diffusers' own forward pass and its DDIM sample of ``steps``
    (the next lower number that divides the betas).

    Raises KakusanError with the operation that ``UNet2DModel`` does not have, and where the comparison fails.
    """
    if out.exists():
        raise KakusanError(f"--out {out}: exists already, and exports overwrite nothing; choose another name")
    if isinstance(model.domain, Latent):
        raise KakusanError(
            "--format diffusers: UNet2DModel has no place for the decoder of a latent; use --format onnx or openvino"
        )
    net, labels = _net(model), _labels(model)
    if any(size % net.multiple for size in shape[1:]):
        raise KakusanError(
            f"--format diffusers: {shape[2]} x {shape[1]} pixels: UNet2DModel halves sizes "
            f"without rounding; choose --size, a multiple of {net.multiple}"
        )
    prediction = _prediction(model)
    need("diffusers", "diffusers")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        say("writing the network and its scheduler ...")
        write_json(temporary / "unet" / "config.json", unet_config(net, shape, labels))
        write_tensors(temporary / "unet" / WEIGHTS, unet_tensors(model), {"format": "pt"})
        write_json(temporary / "scheduler" / "scheduler_config.json", scheduler_config(net.clock, prediction))
        if not labels:
            write_json(temporary / "model_index.json", _INDEX)
        say("comparing with Diffusers: one evaluation, one whole sample ...")
        checked = _compare(model, net, temporary, shape, steps, labels)
        told = dict(about) | {"format": 1, "kind": "diffusers", "checked": checked.dict()}
        told |= {"domain": model.domain.spec() if model.domain else None, "classes": _names(model)}
        files = seal(temporary, told, ledger)
        temporary.chmod(0o755)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Exported(out, files, checked, "Diffusers")


_INDEX = {
    "_class_name": "DDIMPipeline",
    "_diffusers_version": _VERSION,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def unet_config(net: UNet2D, shape: tuple[int, ...], labels: int = 0) -> Tree:
    """What ``UNet2DModel`` is built from; ``labels`` classes, the last of them "no class", 0 = none."""
    spec = net.spec()
    levels = range(len(spec["widths"]))
    kinds = ["Attn" * (i in spec["attention"]) for i in levels]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": _VERSION,
        "sample_size": shape[1] if shape[1] == shape[2] else list(shape[1:]),
        "in_channels": net.channels,
        "out_channels": net.channels,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "time_embedding_dim": spec["embedding"] or None,
        "freq_shift": spec["freq_shift"],
        "flip_sin_to_cos": spec["cos_first"],
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "block_out_channels": spec["widths"],
        "layers_per_block": spec["layers"],
        "mid_block_scale_factor": 1,
        "downsample_padding": spec["down_padding"],
        "downsample_type": "conv",
        "upsample_type": "conv",
        "dropout": spec["dropout"],
        "act_fn": "silu",
        "attention_head_dim": spec["head_dim"] or None,
        "norm_num_groups": spec["groups"],
        "attn_norm_num_groups": None,
        "norm_eps": spec["eps"],
        "resnet_time_scale_shift": "default",
        "add_attention": spec["middle"],
        "class_embed_type": None,
        "num_class_embeds": labels or None,
        "num_train_timesteps": None,
    }


def scheduler_config(clock: Tabulated, prediction: str) -> Tree:
    """What ``DDIMScheduler`` is built from."""
    spec = clock.spec()
    name = {ours: theirs for theirs, ours in BETAS.items()}.get(spec["schedule"])
    listed = spec["table"]
    if listed is None and name is None:
        listed = clock.betas.tolist()
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _VERSION,
        "num_train_timesteps": clock.steps,
        "beta_start": spec["start"],
        "beta_end": spec["end"],
        "beta_schedule": name or "linear",
        "trained_betas": listed,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": prediction,
        "thresholding": False,
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": spec["zero_terminal"],
    }


def unet_tensors(model: Model) -> dict[str, Tensor]:
    """The weights under Diffusers' names. What the conditions add to the embedded noise level becomes a row for each
    class or, where there is but one value, part of a bias; Karras's output is minus v."""
    net = _net(model)
    tensors = {
        name: value.contiguous(memory_format=torch.contiguous_format).clone()
        for name, value in net.state_dict().items()
        if not name.startswith("vector_in.")
    }
    if net.vector_in is not None:
        with torch.no_grad():
            rows = net.vector_in(_given(model, _labels(model)).vector)
        if _labels(model):
            tensors["class_embedding.weight"] = rows
        else:
            tensors["time_embedding.linear_2.bias"] += rows[0]
    if isinstance(model.denoiser.param, Karras):
        for name in ("conv_out.weight", "conv_out.bias"):
            tensors[name] = -tensors[name]
    return tensors


def _net(model: Model) -> UNet2D:
    net = model.denoiser.net
    if not isinstance(net, UNet2D):
        why = _OTHERS.get(net.kind, "no exact mapping of its layers is known")
        raise KakusanError(
            f"--format diffusers: UNet2DModel cannot hold {net.kind}: {why}; use --format onnx or openvino, or train "
            "with denoiser.net.kind=net/unet2d (recipes/diffusers.toml)"
        )
    if not isinstance(model.denoiser.space, Flat):
        raise KakusanError(f"--format diffusers: its schedulers know no {model.denoiser.space.kind}; use --format onnx")
    return net


def _prediction(model: Model) -> str:
    """Diffusers' word for what the network predicts."""
    process, param = model.denoiser.process, model.denoiser.param
    if not process.variance_preserving:
        raise KakusanError(
            f"--format diffusers: DDIMScheduler cannot hold {process.kind}: alpha^2 + sigma^2 is not 1 there; train "
            "with process/tabulated or process/vp (recipes/diffusers.toml)"
        )
    if isinstance(param, Karras) and param.sigma_data == 1:
        return "v_prediction"
    found = {ours: theirs for theirs, ours in PREDICTIONS.items()}.get(param.kind)
    if found is None:
        why = "UNet2DModel does not scale its input by the noise level" if isinstance(param, Karras) else "no such word"
        raise KakusanError(f"--format diffusers: DDIMScheduler cannot hold {param.kind}: {why}; train with param/v")
    return found


def _names(model: Model) -> list[str]:
    return list(model.encoder("label").names) if "label" in model.encoders else []


def _labels(model: Model) -> int:
    """How many rows a table of classes has, "no class" among them; 0 without labels."""
    for name in model.encoders:
        kind = model.encoder(name).kind
        if name != "augment" and (name != "label" or kind != "condition/label"):
            raise KakusanError(
                f"--format diffusers: UNet2DModel knows classes only, not the condition {name!r} ({kind}); "
                "use --format onnx"
            )
    return len(_names(model)) + 1 if "label" in model.encoders else 0


def _given(model: Model, labels: int) -> Cond:
    """The condition of every class, the last of them none; of one sample without labels."""
    if not labels:
        return model.cond({}, {}, 1)
    inputs = {"label": model.encoder("label").prepare([*range(labels - 1), None])}
    return model.cond(inputs, {}, labels)


def _compare(model: Model, net: UNet2D, folder: Path, shape: tuple[int, ...], steps: int, labels: int) -> Checked:
    """One evaluation at three noise levels and a DDIM sample, each in Diffusers and here."""
    batch, clock = 3, net.clock
    denoiser = Denoiser(net, clock, model.denoiser.param, model.denoiser.space)
    sign = -1 if isinstance(denoiser.param, Karras) else 1
    cond, rows = _given(model, labels), torch.arange(batch) % max(1, labels)
    cond, classes = cond.map(lambda port: port[rows]), rows if labels else None
    with _peer(folder) as (unet, scheduler), torch.inference_mode():
        noise = denoiser.space.noise([shape] * batch, Rng(range(batch)), "start")
        worst = (0.0, EVALUATION)
        for step in (0, clock.steps // 2, clock.steps - 1):
            time = torch.tensor((step + 1) / clock.steps, dtype=torch.float64)
            here, _ = denoiser.raw(noise, time, cond)
            there = unet(noise, step, class_labels=classes).sample
            found = apart((sign * here).numpy(), there.numpy(), EVALUATION)
            if not found[0] / found[1] <= worst[0] / worst[1]:
                worst = found
        one = within("one evaluation", worst, "Diffusers")
        steps = max(n for n in range(1, steps + 1) if clock.steps % n == 0)  # of others, that library misses the times
        scheduler.set_timesteps(steps)
        times = Discrete("trailing").times(steps, clock)
        drawn = sample(
            lambda x, t, s: denoiser(x, t, cond), noise, times, DDIM(), clock, denoiser.space, Rng(range(batch))
        )
        mine, x = run(drawn), noise
        for step in scheduler.timesteps:
            x = scheduler.step(unet(x, step, class_labels=classes).sample, step, x).prev_sample
        return Checked(*one, *within("a whole sample", apart(x.numpy(), mine.numpy(), SAMPLE), "Diffusers"))


@contextlib.contextmanager
def _peer(folder: Path) -> Iterator[tuple[Any, Any]]:
    """Diffusers' own network and scheduler, read from the folder without a word."""
    from diffusers import DDIMScheduler, UNet2DModel
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        unet = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False, local_files_only=True)
        yield unet.eval(), DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    finally:
        logging.set_verbosity(before)
