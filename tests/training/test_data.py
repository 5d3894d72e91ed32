"""Batches are a pure function of (seed, step); what is held out stays out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kakusan.domains.augment import Affine
from kakusan.domains.image import Image
from kakusan.domains.picture import encode_png
from kakusan.part import KakusanError
from kakusan.training.cache import build_cache
from kakusan.training.data import KEPT, Batches, Dataset
from kakusan.training.source import open_source

DOMAIN = Image([4, 4], "L")


def dataset(count: int = 50, labelled: bool = True) -> Dataset:
    """Picture i has all pixels i."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 1)).copy()
    return Dataset.arrays(pixels, np.arange(count) % 3 if labelled else None, ("a", "b", "c") if labelled else ())


def numbers(batch) -> list[int]:
    return ((batch.x0[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize("augment", [None, Affine(p=0.8)])
def test_a_batch_depends_on_seed_and_step_alone(augment):
    def make(ahead: int, seed: int = 3) -> Batches:
        return Batches(dataset(), DOMAIN, 8, seed, flip=True, augment=augment, ahead=ahead)

    straight, lone, prefetched = make(0), make(0), make(3)
    wanted = {s: straight.at(s) for s in range(20)}
    for s in (19, 3, 3, 4, 5, 6, 0, 17, 18):
        for batches in (lone, prefetched):
            got = batches.at(s)
            assert torch.equal(got.x0, wanted[s].x0) and torch.equal(got.stratum, wanted[s].stratum)
            assert got.inputs.keys() == wanted[s].inputs.keys()
            for name, given in got.inputs.items():
                assert all(torch.equal(v, wanted[s].inputs[name][k]) for k, v in given.items())
    assert numbers(make(0, seed=4).at(0)) != numbers(wanted[0])
    prefetched.close()
    assert torch.equal(prefetched.at(2).x0, wanted[2].x0)
    prefetched.close()


@pytest.mark.parametrize("batch", [8, 50, 70])
def test_every_epoch_shows_each_picture_once(batch):
    batches = Batches(dataset(), DOMAIN, batch, ahead=0)
    seen = [n for s in range(-(-150 // batch)) for n in numbers(batches.at(s))]
    for epoch in range(3):
        assert sorted(seen[50 * epoch : 50 * epoch + 50]) == list(range(50))
    assert seen[:50] != seen[50:100] and batches.epoch(10) == 10 * batch / 50


def test_labels_go_with_their_pictures_and_none_is_the_null_index():
    data = dataset()
    data.labels[7] = -1
    batch = Batches(data, DOMAIN, 50, ahead=0).at(0)
    index = batch.inputs["label"]["index"]
    assert index.dtype == torch.int64
    assert index.tolist() == [3 if n == 7 else n % 3 for n in numbers(batch)]
    assert Batches(dataset(labelled=False), DOMAIN, 4, ahead=0).at(0).inputs == {}


def test_ranks_share_one_global_batch():
    augment = Affine(p=0.9)
    whole = Batches(dataset(), DOMAIN, 12, 1, flip=True, augment=augment, ahead=0)
    parts = [Batches(dataset(), DOMAIN, 12, 1, flip=True, augment=augment, ahead=0, rank=r, world=3) for r in range(3)]
    for step in (0, 9):
        assert torch.allclose(torch.cat([p.at(step).x0 for p in parts]), whole.at(step).x0, atol=1e-6)
        assert torch.equal(torch.cat([p.at(step).stratum for p in parts]), whole.at(step).stratum)
        assert [s for p in parts for s in p.rng(step).seeds] == whole.rng(step).seeds
    with pytest.raises(KakusanError, match="multiple of the 5"):
        Batches(dataset(), DOMAIN, 12, world=5)


def test_draws_differ_by_row_and_step():
    batches = Batches(dataset(), DOMAIN, 8, ahead=0)
    seeds = [s for step in range(5) for s in batches.rng(step).seeds]
    assert len(set(seeds)) == 40
    stratum = batches.at(0).stratum
    assert stratum.dtype == torch.float64 and stratum.tolist() == [i / 8 for i in range(8)]


def test_flip_mirrors_about_half():
    ramp = np.broadcast_to(np.array([0, 80, 160, 240], np.uint8)[None, None, :, None], (40, 4, 4, 1)).copy()
    x0 = Batches(Dataset.arrays(ramp), DOMAIN, 200, flip=True, ahead=0).at(0).x0
    turned = x0[:, 0, 0, 0] > x0[:, 0, 0, 3]
    assert 70 < turned.sum() < 130 and torch.equal(x0[turned][0], x0[~turned][0].flip(2))


@pytest.mark.parametrize("mode, dtype", [("RGB", np.uint8), ("RGBA", np.uint8), ("L", np.uint16)])
def test_values_and_memory_format(mode, dtype):
    domain = Image([5, 6], mode, 8 * np.dtype(dtype).itemsize)
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (9, 5, 6, domain.channels)).astype(dtype)
    batches = Batches(Dataset.arrays(pixels), domain, 4, ahead=0)
    x0 = batches.at(1).x0
    assert x0.shape == (4, domain.channels, 5, 6) and x0.dtype == torch.float32
    assert x0.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x0, domain.floats(pixels[batches.rows(1)]))
    assert np.allclose(
        x0.permute(0, 2, 3, 1).numpy() * 0.5 + 0.5, pixels[batches.rows(1)] / np.iinfo(dtype).max, atol=1e-6
    )


def test_held_out_is_disjoint_deterministic_and_keeps_copies_together():
    pixels = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 1)).astype(np.uint8)
    pixels[200:300] = pixels[100:200]  # copies
    data = Dataset.arrays(pixels, np.arange(400))
    train, held = data.split(0.05, seed=1)
    assert len(train) + len(held) == 400 and 20 <= len(held) <= 24
    assert not set(train.index) & set(held.index)
    assert not set(data.hashes[train.index]) & set(data.hashes[held.index])
    assert train.labels.tolist() == train.index.tolist()
    again, other = data.split(0.05, seed=1)[1], data.split(0.05, seed=2)[1]
    assert np.array_equal(held.index, again.index) and not np.array_equal(held.index, other.index)
    shuffled = Dataset.arrays(pixels[::-1])
    kept = shuffled.split(0.05, seed=1)[1]
    assert set(shuffled.hashes[kept.index]) == set(data.hashes[held.index])  # by content, not by place
    assert set(numbers_of(train)) | set(numbers_of(held)) == set(range(400))


def numbers_of(data: Dataset) -> list[int]:
    return data.labels.tolist()


def test_copies_only_can_not_be_split():
    with pytest.raises(KakusanError, match="same one"):
        Dataset.arrays(np.zeros((9, 4, 4, 1), np.uint8)).split()
    with pytest.raises(KakusanError, match="between 0 and 1"):
        dataset().split(5)


def test_rows_stay_aligned_past_broken_files(tmp_path):
    (tmp_path / "data").mkdir()
    for i in range(9):
        (tmp_path / f"data/{i}.png").write_bytes(encode_png(np.full((4, 4, 1), i, np.uint8)))
        (tmp_path / f"data/{i}.txt").write_text(f"number {i}")
    (tmp_path / "data/4.png").write_bytes(b"broken")
    source = open_source(tmp_path / "data")
    data = Dataset.of(source, build_cache(source, DOMAIN, tmp_path / "cache"))
    assert len(data) == 8 and [data.texts[i] for i in (3, 4)] == ["number 3", "number 5"]
    train, held = data.split(0.3)
    for part in (train, held):
        for i in range(len(part)):
            assert part.texts[i] == f"number {part.rows(np.array([i]))[0, 0, 0, 0]}"


def test_an_error_in_the_background_arrives():
    data = dataset()
    batches = Batches(data, DOMAIN, 8, ahead=2)
    batches.at(0)
    batches._host = lambda step: 1 / 0
    batches.at(1), batches.at(2)  # were prepared before
    with pytest.raises(ZeroDivisionError):
        batches.at(3)
    batches.close()


def test_reference_pictures_change_every_so_many_steps_and_bring_their_labels():
    straight, lone = (Batches(dataset(), DOMAIN, 8, 3, flip=True, reference=20, ahead=0) for _ in range(2))
    first, last, other = straight.at(0).reference, straight.at(KEPT - 1).reference, straight.at(KEPT).reference
    assert first is last and first is not None and other is not None
    assert first.x0.shape == (20, 1, 4, 4) and not torch.equal(first.x0, other.x0)
    assert torch.equal(lone.at(KEPT).reference.x0, other.x0)  # a function of seed and step alone
    assert other.inputs["label"]["index"].tolist() == [n % 3 for n in numbers(other)]
    assert Batches(dataset(), DOMAIN, 8).at(0).reference is None
    assert Batches(dataset(), DOMAIN, 8, augment=Affine(p=0.8), reference=20).at(0).reference is None
    assert len(Batches(dataset(6), DOMAIN, 2, reference=20).at(0).reference.x0) == 6


def test_every_process_has_the_same_reference():
    both = [Batches(dataset(), DOMAIN, 8, rank=r, world=2, reference=9, ahead=0).at(5).reference for r in (0, 1)]
    assert torch.equal(both[0].x0, both[1].x0)
