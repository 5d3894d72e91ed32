"""The protocol of a figure: two figures are comparable exactly when their stamps agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from kakusan.evaluation.features import Extractor
from kakusan.part import KakusanError

__all__ = ["VERSION", "Stamp"]

VERSION = 1  # of the measures: raised whenever the same features would give another figure


@dataclass(frozen=True)
class Stamp:
    """How figures came about: all that could change them besides the model."""

    extractor: str  # name of the feature network
    weights: str  # its hash
    resize: str  # what was done to pictures before it
    pictures: str  # what they were, "28x28x1 uint8"
    real: int  # how many real pictures
    samples: int  # how many drawn ones
    seed: int  # of the choice of real pictures, the noise and the intervals
    data: str  # fingerprint of the data set
    version: int = VERSION

    @classmethod
    def of(cls, extract: Extractor, shape: tuple[int, int, int], dtype: str, **counts: Any) -> Self:
        """The stamp of figures from an extractor's features; ``counts``: real, samples, seed, data."""
        pictures = f"{'x'.join(map(str, shape))} {dtype}"
        return cls(extract.name, extract.weights, extract.resize, pictures, **counts)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A stamp as ``as_dict`` wrote it; raises KakusanError for anything else."""
        kinds = {f.name: int if f.type == "int" else str for f in fields(cls)}
        wrong = [n for n, kind in kinds.items() if type(values.get(n)) is not kind] + sorted(set(values) - set(kinds))
        if wrong:
            raise KakusanError(f"this is no stamp of figures ({', '.join(wrong)}): run `kakusan evaluate` again")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def agrees(self, other: Stamp) -> bool:
        """Whether figures under the two stamps may stand side by side."""
        return self == other

    def differences(self, other: Stamp) -> list[str]:
        """What differs, one line each: "samples: 1000 and 500"."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [f"{name}: {mine} and {theirs}" for name, mine, theirs in pairs if mine != theirs]
