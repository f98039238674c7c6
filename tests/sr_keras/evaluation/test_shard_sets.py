# SPDX-License-Identifier: Apache-2.0
"""Patches are shared out so that every slide is scored once on each kind of LR, and real LR comes from pairs alone."""
from __future__ import annotations

import numpy as np
import pytest

from pipelines.config import PatchOptions
from pipelines.shards import open_shards, write_shards
from pipelines.sources import find_sources
from sr_keras.evaluation.conditions import REAL, condition_named
from sr_keras.evaluation.shard_sets import find_sets, limit_of, lr_dataset, pairs_of, share_out

SIDE = 64
OPTIONS = PatchOptions(patch_size=SIDE, min_tissue=0)


@pytest.fixture
def sets(plain_folder, pair_folder, tmp_path):
    return find_sets([str(pair_folder), str(plain_folder)], tmp_path / "scores" / "data", OPTIONS, 4)


def slides_of(sets):
    return [one.slide_ids for one in sets]


def test_pairs_are_a_set_of_their_own_after_the_others(sets):
    assert slides_of(sets) == [("plain", "shared"), ("paired", "shared")]
    assert [one.shards[0].pair_scale for one in sets] == [None, 4]


def test_a_slide_in_both_gives_its_hr_once(sets):
    assert slides_of(share_out(sets)) == [("plain", "shared"), ("paired",)]
    assert slides_of(share_out([sets[1]])) == [("paired", "shared")]


def test_limit_is_the_same_for_each_slide_as_far_as_it_has_patches(sets):
    assert [limit_of(one, None) for one in sets] == [None, None]
    assert [limit_of(one, 2) for one in sets] == [1 + 2, 2 + 2]
    assert [limit_of(one, 100) for one in sets] == [1 + 4, 2 + 3]
    for batch in lr_dataset(sets[0], condition_named("box"), 4, limit_of(sets[0], 2), seed=0):
        assert sorted(batch["slide_id"].numpy().tolist()) == [b"plain", b"shared", b"shared"]


def test_shards_are_sets_as_they_are_given(plain_folder, pair_folder, tmp_path):
    for name, data in (("a", plain_folder), ("b", pair_folder)):
        write_shards(find_sources(str(data)), tmp_path / name, OPTIONS)
    sets = find_sets([str(tmp_path / "b"), str(tmp_path / "a")], tmp_path / "scores" / "data", OPTIONS, 4)
    assert slides_of(sets) == [("plain", "shared"), ("paired", "shared")]
    assert not (tmp_path / "scores").exists()


def test_patches_of_two_sizes_are_two_sets(write_pairs, tmp_path):
    write_pairs(tmp_path / "pairs" / "small", 2)
    write_pairs(tmp_path / "pairs" / "large", 2, side=2 * SIDE)
    sets = find_sets([str(tmp_path / "pairs")], tmp_path / "scores" / "data", OPTIONS, 4)
    assert sorted(one.patch_size for one in sets) == [SIDE, 2 * SIDE]


def test_real_lr_is_what_lies_beside_hr(sets):
    (batch,) = lr_dataset(pairs_of(sets[1], 4), REAL, 4, None, seed=0).unbatch().batch(5).as_numpy_iterator()
    assert len(batch["lr"]) == 5
    hr, lr = (np.rint(batch[name] * 255) for name in ("hr", "lr"))
    mean = hr.reshape(5, SIDE // 4, 4, SIDE // 4, 4, 3).mean((2, 4))
    np.testing.assert_array_equal(lr, np.rint(mean))


def test_data_without_pairs_has_no_real_lr(sets):
    with pytest.raises(ValueError, match=r"`data` must contain pairs.*name such data"):
        pairs_of(sets[0], 4)


def test_pairs_of_another_scale_are_refused_by_name(write_pairs, tmp_path):
    write_pairs(tmp_path / "half", 2, scale=2)
    write_shards(find_sources(str(tmp_path / "half")), tmp_path / "shards", OPTIONS)
    with pytest.raises(ValueError, match=r"pairs of half"):
        pairs_of(open_shards(tmp_path / "shards"), 4)


def test_output_among_the_tiles_is_refused(plain_folder):
    with pytest.raises(ValueError, match="`output` must be outside of the data"):
        find_sets([str(plain_folder)], plain_folder / "scores" / "data", OPTIONS, 4)
