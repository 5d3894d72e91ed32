"""Draw samples from a folder that ``kakusan export`` wrote, with NumPy and ONNX Runtime only.

    kakusan export runs/photos --out photos-onnx
    python onnx_sample.py photos-onnx --count 16 --label cat

The loop is the whole of sampling: copy it into any language. Pillow writes the picture.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image


def sample(table, networks, noise, given, rng):
    """Noise (B, C, H, W) to samples; ``given`` has the inputs of the conditions asked for, (B, ...) each."""
    x, past = np.float32(table["start"]) * noise, []
    for step in table["steps"]:
        x0 = np.zeros_like(x)
        for weight, branch in zip(step["weights"], table["branches"]):
            if weight:
                feed = {"x": x} | {c: np.full(len(x), step[c], np.float32) for c in table["coefficients"]}
                for name, condition in table["conditions"].items():
                    for key, about in condition["inputs"].items():
                        absent = name in branch["none"] or key not in given
                        feed[key] = np.array([about["none"]] * len(x) if absent else given[key], about["dtype"])
                x0 += np.float32(weight) * networks[branch["network"]].run(["x0"], feed)[0]
        past = [x0, *past][: table["memory"]]
        x = np.float32(step["a"]) * x + sum(np.float32(b) * old for b, old in zip(step["b"], past))
        if step["noise"]:
            x += np.float32(step["noise"]) * rng.standard_normal(x.shape, np.float32)
    return networks[table["decoder"]].run(["x0"], {"z": x})[0] if table.get("decoder") else x


def load(file):
    """One network; another runtime's needs only the same ``run``."""
    import onnxruntime

    return onnxruntime.InferenceSession(file)


def main(load=load):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", help="a class, by name; all classes in turn if left out")
    parser.add_argument("--out", type=Path, default=Path("grid.png"))
    asked = parser.parse_args()

    table = json.loads((asked.folder / "table.json").read_text())
    networks = {name: load(asked.folder / file) for name, file in table["networks"].items()}
    given = {}
    if names := table["conditions"].get("label", {}).get("names"):
        if asked.label is not None and asked.label not in names:
            parser.error(f"--label {asked.label!r}: the classes are {', '.join(names)}")
        chosen = [i % len(names) if asked.label is None else names.index(asked.label) for i in range(asked.count)]
        given["label"] = np.array(chosen)
    rng = np.random.default_rng(asked.seed)
    x = sample(table, networks, rng.standard_normal((asked.count, *table["shape"]), np.float32), given, rng)

    pictures = np.rint(np.clip(x * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    columns = int(np.ceil(asked.count**0.5))
    blank = np.zeros((-len(pictures) % columns, *pictures.shape[1:]), np.uint8)
    rows = np.concatenate([pictures, blank]).reshape(-1, columns, *pictures.shape[1:])
    grid = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    Image.fromarray(grid.squeeze(2) if grid.shape[2] == 1 else grid).save(asked.out)
    print(asked.out)


if __name__ == "__main__":
    main()
