"""Which patches of two scans show the same, sharp and whole, and why the others do not.

A patch is judged against what is usual on these two scans, since how well sharp patches match depends on both scanners.
"""
from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from tqdm import tqdm

from pipelines.register.coarse import Scan
from pipelines.register.fine import fit_patch
from pipelines.register.locate import LEAST_CORRELATION, correlated, places, spread
from pipelines.register.planes import Matrix, Plane
from pipelines.register.registration import Fit, Rejected
from pipelines.slide import SlideError

# Against the median of all patches that correlate: the correlation of the worst part, the factor between the
# sharpness of both scans either way, HR's detail.
WEAKEST, FOCUS, DETAIL = 0.6, 1.6, 0.5
MOST_RESIDUAL = 0.25  # LR pixels


def examine(lr: Scan, hr: Scan, matrix: Matrix, size: int, scale: int, most: int,
            progress: bool = True) -> tuple[list[Fit], list[Rejected]]:
    """Compare all patches with tissue, or `most` of them from all over.

    Args:
        lr, hr, size: As in `locate`.
        matrix, scale: From there.
        most: Patches at most.
        progress: Show a progress bar.

    Returns:
        What fits, and what was left out and why, row by row.

    Raises:
        ValueError: Too few fit: it is another glass.
    """
    planes = Plane(lr.slide, 1), Plane(hr.slide, 1)
    fits: list[Fit] = []
    rejected: list[Rejected] = []
    chosen = spread(places(lr, hr, planes[0], matrix, size), most)
    for x, y in tqdm(chosen, "comparing", unit="patch", disable=not progress):
        try:
            found = fit_patch(*planes, matrix, x, y, size, scale)
        except SlideError:
            found = "not readable"
        fits.append(found) if isinstance(found, Fit) else rejected.append(Rejected(x, y, found))
    usual = _Usual(correlated(lr, hr, fits), scale)
    reasons = [usual.objection(fit) for fit in fits]
    rejected += [Rejected(fit.x, fit.y, reason) for fit, reason in zip(fits, reasons, strict=True) if reason]
    accepted = [fit for fit, reason in zip(fits, reasons, strict=True) if reason is None]
    return accepted, sorted(rejected, key=lambda item: (item.y, item.x))


class _Usual:
    """What is usual on these two scans, against which each patch is judged."""

    def __init__(self, fits: Iterable[Fit], scale: int) -> None:
        good = list(fits)
        self._weakest = median(fit.weakest for fit in good)
        self._sharpness = median(fit.sharpness for fit in good)
        self._detail = median(fit.detail for fit in good)
        self._most_residual = MOST_RESIDUAL * scale

    def objection(self, fit: Fit) -> str | None:
        """Return why a patch is left out, None where it is not."""
        if fit.correlation < LEAST_CORRELATION or fit.weakest < WEAKEST / 2 * self._weakest:
            return "does not match"
        if fit.sharpness * FOCUS < self._sharpness:
            return "lr out of focus"
        if fit.sharpness > FOCUS * self._sharpness or fit.detail < DETAIL * self._detail:
            return "hr out of focus"
        if fit.weakest < WEAKEST * self._weakest or fit.residual > self._most_residual:
            return "does not match"
        return None


