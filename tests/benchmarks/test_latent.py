"""benchmarks/latent.py and cold_start.py: minutes that leave nothing, the table, pictures awaited on disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "icons"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "20", "--autoencoder", "20"], "--autoencoder 20: leaves nothing of --minutes 20"),
        (["--count", "10"], "--count 10: a distance needs at least 50 samples"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(tmp_path, words, message):
    import latent

    with pytest.raises(SystemExit, match=message):
        latent.main([str(tmp_path), "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_the_table_says_what_is_above_the_floor():
    import latent

    row = {
        "minutes": 60.0,
        "pictures_seen": 12_000,
        "parameters": 3_400_000,
        "low": 90.0,
        "high": 110.0,
        "seconds": 0.5,
    }
    rows = {name: row | {"frechet": 100.0 + i} for i, name in enumerate(latent.ROWS)} | {"floor": {"frechet": 40.0}}
    words = latent.table(rows)
    assert "| pixels | 60.0 min | 12,000 | 3.4M | 100.0 (90.0-110.0) | 60.0 | 0.50 s |" in words
    assert "against the same real ones: 40.0." in words
    assert len({line.count("|") for line in words.splitlines()[:5]}) == 1


def test_pictures_are_awaited_until_the_last_is_whole(tmp_path):
    from cold_start import pictures_on_disk

    code = (
        "import sys, time, pathlib; out = pathlib.Path(sys.argv[-1]); out.mkdir(); end = b'IEND\\xaeB`\\x82'\n"
        "for i in range(2): (out / f'{i}.png').write_bytes(end)\n"
        "(out / 'half.png').write_bytes(b'x'); time.sleep(0.4); (out / 'half.png').write_bytes(end); time.sleep(0.4)"
    )
    command = [sys.executable, "-c", code]
    two, three = (pictures_on_disk(command, n)(tmp_path / f"{n}") for n in (2, 3))
    assert three >= 0.4
    with pytest.raises(SystemExit, match="no such model"):
        pictures_on_disk([sys.executable, "-c", "import sys; sys.exit('no such model')"])(tmp_path / "gone")
    assert two > 0
