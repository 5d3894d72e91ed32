"""From Diffusers: a folder with a ``UNet2DModel`` and its scheduler as a model of ``net/unet2d``; needs no Diffusers.

A scheduler there is betas, what the network predicts, and a list of time steps; the first two are the process and the
parametrisation, the last is a default of sampling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kakusan.catalog import build
from kakusan.core.model import Model
from kakusan.core.process import Tabulated
from kakusan.domains.image import Image
from kakusan.nets.unet2d import UNet2D
from kakusan.part import KakusanError
from kakusan.runtime.bundle import MANIFEST
from kakusan.runtime.diffusers import BETAS, PREDICTIONS, WEIGHTS, unet_config

__all__ = ["members", "model_from"]

Tree = dict[str, Any]

_MOST = 4 << 20  # bytes of a JSON file
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_STEPS = 50
_FREE = {  # what a UNet2DModel may say otherwise than ``unet_config`` writes it; all else has one value
    "sample_size", "in_channels", "out_channels", "time_embedding_dim", "freq_shift", "flip_sin_to_cos",
    "down_block_types", "up_block_types", "block_out_channels", "layers_per_block", "downsample_padding", "dropout",
    "attention_head_dim", "norm_num_groups", "norm_eps", "add_attention", "num_class_embeds",
}  # fmt: skip
_EQUAL: dict[str, tuple[Any, ...]] = {"act_fn": ("silu", "swish")}
_DEFAULTS: Tree = {  # of a UNet2DModel, where its file is silent
    "sample_size": None, "in_channels": 3, "out_channels": 3, "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True, "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2, "downsample_padding": 1,
    "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3, "dropout": 0.0, "attention_head_dim": 8,
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"], "norm_num_groups": 32, "norm_eps": 1e-5,
    "add_attention": True, "num_class_embeds": None,
}  # fmt: skip
_RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # of old files
_SCHEDULERS = ("DDPM", "DDIM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
               "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep")  # fmt: skip


def members(folder: Path) -> dict[str, Path]:
    """The files of a folder that make a model: "unet" and "weights", and "scheduler" and "manifest" where it has them.

    The network lies in ``unet/`` or in the folder itself, the scheduler in ``scheduler/`` or there too.
    """
    at = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    found = {"unet": at / "config.json", "weights": at / WEIGHTS}
    if not found["unet"].is_file():
        raise KakusanError(f"{folder}: a Diffusers folder without a network: no unet/config.json and no config.json")
    if not found["weights"].is_file():
        pickled = [file.name for file in sorted(at.glob("*.bin"))]
        hint = (
            f"{pickled[0]} is a pickle, which is never opened: save it anew in Diffusers with save_pretrained(FOLDER)"
            if pickled
            else "it needs that file beside its config.json"
        )
        raise KakusanError(f"{at}: no {WEIGHTS}; {hint}")
    for place in (folder / "scheduler", folder, folder.parent / "scheduler"):
        if (file := place / "scheduler_config.json").is_file():
            found["scheduler"] = file
            break
    if (folder / MANIFEST).is_file():
        found["manifest"] = folder / MANIFEST
    return found


def model_from(folder: Path) -> Model:
    """The model of a folder, in evaluation mode.

    Raises KakusanError with the entry of its configuration that ``net/unet2d`` does not have.
    """
    try:
        return _model_from(folder, members(folder))
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:160]
        raise KakusanError(f"{folder}: its configuration has values of another type ({reason})") from error


def _model_from(folder: Path, files: Mapping[str, Path]) -> Model:
    config = _checked(_read(files["unet"]), files["unet"])
    said = _read(files["scheduler"]) if "scheduler" in files else {}
    told = _read(files["manifest"]) if "manifest" in files else {}
    process, prediction = _process(said, files.get("scheduler", folder))
    tensors = _tensors(files["weights"])
    rows = tensors.pop("class_embedding.weight", None)
    spec = _spec(config, process, prediction, rows, told) | {"defaults": _sampling(said)}
    _fits(spec["denoiser"]["net"], tensors, files["weights"])
    model = build(spec, str(folder))
    assert isinstance(model, Model)
    model.denoiser.net.load_state_dict(tensors, strict=False)
    if rows is not None:
        _classes(model, rows)
    return model.eval()


def _read(path: Path) -> Tree:
    """A JSON file that holds a table."""
    try:
        if path.stat().st_size > _MOST:
            raise ValueError(f"more than {_MOST:,} bytes")
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise TypeError("not a table")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise KakusanError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from error
    return found


def _checked(config: Tree, path: Path) -> Tree:
    """The configuration with its defaults, where ``net/unet2d`` can hold it."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise KakusanError(f"{path}: holds a {str(config['_class_name'])[:60]!r}; kakusan reads UNet2DModel")
    fixed = unet_config(UNet2D(1, [4], 1, [], groups=2, head_dim=0), (1, 4, 4)) | {"mid_block_type": "UNetMidBlock2D"}
    for name, value in config.items():
        if name.startswith("_") or name in _FREE:
            continue
        if name not in fixed:
            raise KakusanError(f"{path}: its entry {name[:60]!r} is not known; kakusan reads UNet2DModel")
        if value not in _EQUAL.get(name, (fixed[name],)):
            raise KakusanError(
                f"{path}: {name}={str(value)[:60]!r} is not held by net/unet2d, which has {fixed[name]!r} there"
            )
    found = _DEFAULTS | {name: config[name] for name in _FREE & config.keys()}
    if found["in_channels"] != found["out_channels"]:
        raise KakusanError(
            f"{path}: in_channels={found['in_channels']}, out_channels={found['out_channels']}: only networks whose "
            "output has the channels of their input are read (learned variances are not)"
        )
    down, up = list(found["down_block_types"]), list(found["up_block_types"])
    for name, blocks in (("down_block_types", down), ("up_block_types", up)):
        kind = "DownBlock2D" if blocks is down else "UpBlock2D"
        if odd := [b for b in blocks if b not in (kind, f"Attn{kind}")]:
            raise KakusanError(f"{path}: {name} has {str(odd[0])[:60]!r}; net/unet2d has {kind} and Attn{kind}")
    if [b.startswith("Attn") for b in down] != [b.startswith("Attn") for b in reversed(up)]:
        raise KakusanError(f"{path}: attention on one way only; net/unet2d has it at a level's both ways or none")
    if len(down) != len(found["block_out_channels"]) or not 1 <= len(down) <= 12:
        raise KakusanError(f"{path}: {len(down)} down_block_types for {len(found['block_out_channels'])} widths")
    return found


def _process(said: Tree, path: Path) -> tuple[Tree, str]:
    """(the process's spec, the parametrisation's kind) of a scheduler's configuration; DDPM's where there is none."""
    name = str(said.get("_class_name", "DDPMScheduler"))
    if name not in {f"{known}Scheduler" for known in _SCHEDULERS}:
        raise KakusanError(f"{path}: {name[:60]!r} is not a table of betas; kakusan reads: {', '.join(_SCHEDULERS)}")
    prediction, schedule = said.get("prediction_type", "epsilon"), said.get("beta_schedule", "linear")
    if prediction not in PREDICTIONS:
        raise KakusanError(
            f"{path}: prediction_type={prediction!r} is not known; kakusan reads {', '.join(PREDICTIONS)}"
        )
    listed = said.get("trained_betas")
    if listed is None and schedule not in BETAS:
        raise KakusanError(f"{path}: beta_schedule={schedule!r} is not known; kakusan reads {', '.join(BETAS)}")
    spec: Tree = {"kind": Tabulated.kind, "zero_terminal": bool(said.get("rescale_betas_zero_snr", False))}
    if listed is not None:
        return spec | {"table": listed}, PREDICTIONS[prediction]
    spec |= {"schedule": BETAS[schedule], "steps": said.get("num_train_timesteps", 1000)}
    return spec | {"start": said.get("beta_start", 1e-4), "end": said.get("beta_end", 0.02)}, PREDICTIONS[prediction]


def _sampling(said: Tree) -> Tree:
    """Sampling defaults: DDIM at the scheduler's own spacing of its time steps."""
    spacing = said.get("timestep_spacing", "leading")
    known = spacing if spacing in ("leading", "trailing", "linspace") else "leading"
    offset = said.get("steps_offset", 0) if known == "leading" else 0
    grid = {"kind": "grid/discrete", "spacing": known, "offset": int(offset)}
    steps = min(_STEPS, int(said.get("num_train_timesteps", _STEPS)))
    return {"solver": {"kind": "solver/ddim"}, "grid": grid, "steps": steps, "guidance": 1.0, "eta": 0.0}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        found = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise KakusanError(f"{path}: not a whole safetensors file ({' '.join(str(error).split())[:160]})") from error
    out = {}
    for name, value in found.items():
        for old, new in _RENAMED.items():
            name = name.replace(old, new)
        out[name] = value.to(torch.float32)
    return out


def _spec(config: Tree, process: Tree, prediction: str, rows: Tensor | None, told: Mapping[str, Any]) -> Tree:
    """The model's tree."""
    widths = list(config["block_out_channels"])
    vector = 0 if rows is None else int(rows.shape[1])
    net = {
        "kind": UNet2D.kind,
        "channels": config["in_channels"],
        "widths": widths,
        "layers": config["layers_per_block"],
        "attention": [i for i, kind in enumerate(config["down_block_types"]) if kind.startswith("Attn")],
        "middle": config["add_attention"],
        "head_dim": config["attention_head_dim"] or 0,
        "groups": config["norm_num_groups"],
        "eps": config["norm_eps"],
        "embedding": config["time_embedding_dim"] or 0,
        "cos_first": config["flip_sin_to_cos"],
        "freq_shift": config["freq_shift"],
        "down_padding": config["downsample_padding"],
        "vector": vector,
        "dropout": config["dropout"],
        "clock": process,
    }
    encoders = {}
    if rows is not None:
        names = told.get("classes") or [str(i) for i in range(len(rows))]
        encoders["label"] = {"kind": "condition/label", "classes": names, "dim": vector}
    return {
        "kind": "model",
        "denoiser": {
            "kind": "denoiser", "net": net, "process": process, "param": {"kind": prediction},
            "space": {"kind": "space/flat"},
        },
        "domain": _domain(config, told),
        "encoders": encoders,
    }  # fmt: skip


def _domain(config: Tree, told: Mapping[str, Any]) -> Tree:
    """Pictures of the size and channels that the network was made for; our own folders say which."""
    known = told.get("domain")
    if isinstance(known, dict) and known.get("kind") == Image.kind:
        return known
    side, channels = config["sample_size"] or 32, config["in_channels"]
    size = [side, side] if isinstance(side, int) else list(side)
    own = {"mode": _MODES[channels]} if channels in _MODES else {"mode": "array", "channels": channels}
    return {"kind": Image.kind, "size": size} | own


def _fits(net: Tree, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights that are not those of the network, before it is allocated."""
    if net["layers"] not in range(1, 13):
        raise KakusanError(f"{path}: layers_per_block={str(net['layers'])[:20]}: 1 to 12 are read")
    with torch.device("meta"):
        empty = build({**net, "vector": 0}, str(path))
    assert isinstance(empty, UNet2D)
    asked = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    held = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(asked.keys() | held.keys()):
        if asked.get(name) != held.get(name):
            raise KakusanError(
                f"{path}: {name[:80]!r} is {held.get(name, 'missing')}; its config.json asks for "
                f"{asked.get(name, 'none')}"
            )


def _classes(model: Model, rows: Tensor) -> None:
    """A row for each class as the label's vector, which enters as it is; "no class" is zero where the folder has no
    row for it."""
    encoder, net = model.encoder("label"), model.denoiser.net
    table = encoder.get_submodule("table").get_parameter("weight")
    if len(rows) not in (len(table) - 1, len(table)):
        raise KakusanError(f"class_embedding has {len(rows)} rows for {len(table) - 1} classes; one more is allowed")
    with torch.no_grad():
        table.zero_()
        table[: len(rows)] = rows
        net.get_submodule("vector_in").get_parameter("weight").copy_(torch.eye(rows.shape[1]))
