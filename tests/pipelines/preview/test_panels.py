"""A panel shows the centre, and the same place of LR as of HR."""
from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipelines.preview.panels import SHOWN, show


def shown(image, scale=1):
    axis = Figure().subplots()
    show(axis, image, scale)
    return np.asarray(axis.images[0].get_array())


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("side", [252, 256, 264, 64])
def test_lr_shows_the_place_that_hr_shows(side, scale):
    side -= side % scale
    hr = np.random.default_rng(0).random((side, side, 3))
    lr = hr.reshape(side // scale, scale, side // scale, scale, 3).mean(axis=(1, 3))
    of_hr, of_lr = shown(hr), shown(lr, scale)
    assert len(of_hr) == min(side, SHOWN)
    blocks = of_hr.reshape(len(of_lr), scale, len(of_lr), scale, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(of_lr, blocks)


def test_panel_shows_the_centre():
    marked = np.zeros((256, 256, 3))
    marked[112:144, 112:144] = 1
    assert shown(marked).sum() == marked.sum()
    assert shown(marked)[64:96, 64:96].min() == 1
