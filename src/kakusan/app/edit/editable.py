"""Editable: the editing verbs as methods of a loaded model; the work is in the files beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from kakusan.app.draw.loaded import Loaded
    from kakusan.app.edit.editing import Edited

__all__ = ["Editable"]

Source = str | Path | np.ndarray
Report = Callable[[int, int], None]
Asked = Callable[[], bool]


class Editable:
    """What a model can do to pictures: files, or arrays (H, W, C). All take what ``sample`` takes of these arguments:
    n, seed, prompt, label, cond, steps, solver, guidance, autoguidance, batch, progress, stop.
    """

    def inpaint(
        self,
        image: Source,
        mask: Source,
        *,
        route: str | None = None,
        resample: int | None = None,
        feather: int = 0,
        invert: bool = False,
        tile: bool = False,
        resize: bool = False,
        n: int = 1,
        seed: int = 0,
        prompt: str | None = None,
        label: Any = None,
        cond: dict[str, Any] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        autoguidance: float | None = None,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Edited]:
        """Paint anew what is white in the mask; the rest stays to the bit. See ``kakusan.app.edit.fill.inpaint``."""
        from kakusan.app.edit import editing, fill

        wanted = editing.Wanted(
            n, seed, prompt, label, cond, steps, solver, guidance, autoguidance, None, batch, progress, stop
        )
        return fill.inpaint(
            cast("Loaded", self), image, mask, wanted, route=route, resample=resample, feather=feather, invert=invert,
            tile=tile, resize=resize,
        )  # fmt: skip

    def outpaint(
        self,
        image: Source,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        route: str | None = None,
        resample: int | None = None,
        resize: bool = False,
        n: int = 1,
        seed: int = 0,
        prompt: str | None = None,
        label: Any = None,
        cond: dict[str, Any] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        autoguidance: float | None = None,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Edited]:
        """Extend a picture by pixels at its sides; its own stay to the bit. See ``kakusan.app.edit.fill.outpaint``."""
        from kakusan.app.edit import editing, fill

        wanted = editing.Wanted(
            n, seed, prompt, label, cond, steps, solver, guidance, autoguidance, None, batch, progress, stop
        )
        return fill.outpaint(
            cast("Loaded", self), image, wanted, left=left, right=right, top=top, bottom=bottom, route=route,
            resample=resample, resize=resize,
        )  # fmt: skip

    def edit(
        self,
        image: Source,
        *,
        strength: float = 0.6,
        tile: bool = False,
        resize: bool = False,
        n: int = 1,
        seed: int = 0,
        prompt: str | None = None,
        label: Any = None,
        cond: dict[str, Any] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        autoguidance: float | None = None,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Edited]:
        """Draw a picture again from itself under noise (SDEdit). See ``kakusan.app.edit.restyle.edit``."""
        from kakusan.app.edit import editing, restyle

        wanted = editing.Wanted(
            n, seed, prompt, label, cond, steps, solver, guidance, autoguidance, None, batch, progress, stop
        )
        return restyle.edit(cast("Loaded", self), image, wanted, strength=strength, tile=tile, resize=resize)

    def instruct(
        self,
        image: Source,
        text: str,
        *,
        guidance: float | None = None,
        image_guidance: float | None = None,
        tile: bool = False,
        resize: bool = False,
        n: int = 1,
        seed: int = 0,
        label: Any = None,
        cond: dict[str, Any] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        autoguidance: float | None = None,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Edited]:
        """Change a picture as a text says, by a model trained on ``pairs``: ``kakusan.app.edit.instruct.instruct``."""
        from kakusan.app.edit import editing
        from kakusan.app.edit import instruct as instructing

        wanted = editing.Wanted(
            n, seed, text, label, cond, steps, solver, guidance, autoguidance, None, batch, progress, stop
        )
        return instructing.instruct(
            cast("Loaded", self), image, wanted, image_guidance=image_guidance, tile=tile, resize=resize
        )

    def restore(
        self,
        image: Source,
        kind: str,
        *,
        amount: float | None = None,
        tile: bool = False,
        n: int = 1,
        seed: int = 0,
        prompt: str | None = None,
        label: Any = None,
        cond: dict[str, Any] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        autoguidance: float | None = None,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Edited]:
        """Undo "x2", "x4", "blur", "grey" or "noise". See ``kakusan.app.edit.restyle.restore``."""
        from kakusan.app.edit import editing, restyle

        wanted = editing.Wanted(
            n, seed, prompt, label, cond, steps, solver, guidance, autoguidance, None, batch, progress, stop
        )
        return restyle.restore(cast("Loaded", self), image, kind, wanted, amount=amount, tile=tile)

    def blend(
        self,
        first: Source,
        second: Source,
        *,
        frames: int = 9,
        resize: bool = False,
        prompt: str | None = None,
        label: Any = None,
        cond: dict[str, Any] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Edited]:
        """Pictures from one to the other, through the noise of each. See ``kakusan.app.edit.blending.blend``."""
        from kakusan.app.edit import blending, editing

        wanted = editing.Wanted(
            prompt=prompt, label=label, cond=cond, steps=steps, guidance=guidance, batch=batch, progress=progress,
            stop=stop,
        )  # fmt: skip
        return blending.blend(cast("Loaded", self), first, second, wanted, frames=frames, resize=resize)

    def upscale(
        self,
        image: Source,
        *,
        noise: float | None = None,
        n: int = 1,
        seed: int = 0,
        steps: int | None = None,
        solver: str | None = None,
        batch: int | None = None,
        progress: Report | None = None,
        stop: Asked | None = None,
    ) -> list[Edited]:
        """Enlarge a picture, by a model trained with ``upscale``. See ``kakusan.app.draw.upscale.upscale``."""
        from kakusan.app.draw import upscale
        from kakusan.app.edit import editing

        wanted = editing.Wanted(n, seed, steps=steps, solver=solver, batch=batch, progress=progress, stop=stop)
        return upscale.upscale(cast("Loaded", self), image, wanted, noise=noise)
