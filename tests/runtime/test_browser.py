"""The page for the browser: its loop gives NumPy's numbers, and it draws in a real Chromium without another server."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from kakusan.app.deploy.export import sampling
from kakusan.app.draw.sampler import Request
from kakusan.runtime import export, host
from runtime.small import model

PAGE = Path(__file__).parents[2] / "examples" / "browser"
SCRIPT = """
import { sample } from "SAMPLER";
import { readFileSync } from "node:fs";
const { table, noise, given, count } = JSON.parse(readFileSync(0, "utf8"));
class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
const network = (gain) => ({
  async run(feed) {
    const size = feed.x.data.length / count, rows = feed.lam.data;
    const data = feed.x.data.map((v, i) => {
      const n = Math.floor(i / size);
      return gain * Math.tanh(v * feed.c_in.data[n]) + 0.01 * rows[n] + 0.1 * Number(feed.label.data[n]);
    });
    return { x0: new Tensor("float32", data, feed.x.dims) };
  },
});
const sessions = { model: network(0.8), weak: network(0.5) };
const x = await sample({ Tensor }, table, sessions, Float32Array.from(noise), count, given, () => 0);
console.log(JSON.stringify(Array.from(x)));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("solver", ["dpm2m", "unipc"])
def test_the_pages_loop_is_numpys(solver):
    """With networks that both sides can compute, two of them and three branches."""
    made = model(weak=True)
    table = export.table(made, sampling(made, Request(seeds=[0], solver=solver)), (1, 9, 11), {})
    eps = np.random.default_rng(0).standard_normal((3, 1, 9, 11), np.float32)

    def network(gain):
        def run(feed):
            each = [feed[name].reshape(-1, 1, 1, 1) for name in ("c_in", "lam", "label")]
            return np.float32(gain * np.tanh(feed["x"] * each[0]) + 0.01 * each[1] + 0.1 * each[2])

        return run

    runs = {"model": network(0.8), "weak": network(0.5)}
    expected = host.sample(table, runs, eps, {"label": np.array([0, 1, 1])}, np.random.default_rng(0))
    asked = {"table": table, "noise": eps.flatten().tolist(), "given": {"label": [0, 1, 1]}, "count": 3}
    script = SCRIPT.replace("SAMPLER", (PAGE / "sampler.mjs").as_uri())
    words = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(words, input=json.dumps(asked), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout)).reshape(expected.shape)
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() < 1e-4


def test_the_page_names_no_other_server():
    for file in PAGE.iterdir():
        if file.suffix in (".html", ".mjs"):
            assert not re.search(r"https?://", file.read_text("utf-8")), file.name


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(m) is None for m in ("onnx", "onnxscript", "onnxruntime")), reason="needs [export]"
)
def test_the_page_draws_in_chromium(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or shutil.which("npm") is None:
        pytest.skip("needs chromium and npm")
    words = ["npm", "install", "--prefix", str(tmp_path / "npm"), "onnxruntime-web"]
    if subprocess.run(words, capture_output=True, timeout=300).returncode:
        pytest.skip("npm cannot install onnxruntime-web here")
    site = tmp_path / "site"
    shutil.copytree(
        PAGE, site, ignore=lambda folder, names: [n for n in names if n in ("model", "ort", "node_modules")]
    )
    (site / "ort").mkdir()
    for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(tmp_path / "npm" / "node_modules" / "onnxruntime-web" / "dist" / name, site / "ort")
    made = model()
    export.export(made, sampling(made, Request(seeds=[0])), (1, 9, 11), "onnx", site / "model", tmp_path / "ledger", {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        place = f"http://127.0.0.1:{server.server_address[1]}/?draw"
        own = [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=100000", "--dump-dom", place]
        done = subprocess.run([chromium, *quiet, *own], capture_output=True, text=True, timeout=300)
    finally:
        server.shutdown()
    assert re.search(r"drew 16 in [\d.]+ s", done.stdout), done.stdout[-2000:]
    assert '<canvas id="picture" width="44" height="36"' in done.stdout
