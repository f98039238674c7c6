# SPDX-License-Identifier: Apache-2.0
"""A pruned generator keeps the filters that matter, and is the whole one where the others do nothing."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sr_keras import networks
from sr_keras.model.loading import load_generator, load_keras
from sr_keras.training import pruning
from sr_keras.training.pruning import prune, tissue


@pytest.mark.parametrize(("scale", "skip"), [(2, True), (4, False), (8, True)])
def test_all_filters_kept_give_the_same_network(scale, skip, randomised):
    whole = randomised(networks.generator(scale, 2, 4, global_skip=skip))
    pruned = prune(whole, 4, tissue(None)[:2])
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in whole.layers]
    for one, other in zip(pruned.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_filters_that_nothing_reads_go_first_and_nothing_changes(randomised):
    whole, lr = randomised(networks.generator(4, 1, 6)), tissue(None)[:2]
    for reader, unread in (("up2_conv", [0, 3]), ("last", [1, 4])):
        kernel = whole.get_layer(reader).kernel
        changed = kernel.numpy()
        changed[:, :, unread] = 0
        kernel.assign(changed)
    pruned = prune(whole, 4, lr)
    assert pruned.get_layer("up1_conv").kernel.shape == (3, 3, 6, 16)
    np.testing.assert_allclose(pruned(lr), whole(lr), atol=1e-5)
    assert np.abs(prune(whole, 3, lr)(lr) - whole(lr)).max() > 1e-3  # one that is read


def test_constant_filter_goes_before_one_that_varies(randomised):
    whole, lr = randomised(networks.generator(2, 1, 4)), tissue(None)[:2]
    conv = whole.get_layer("up1_conv")
    kernel, bias = conv.kernel.numpy(), conv.bias.numpy()
    kernel.reshape(3, 3, 4, 4, 4)[..., 2] = 0  # the filter 2 of each of the four pixels
    bias.reshape(4, 4)[:, 2] = 99
    conv.kernel.assign(kernel)
    conv.bias.assign(bias)
    kept = prune(whole, 3, lr).get_layer("last").kernel.numpy()
    np.testing.assert_array_equal(kept, whole.get_layer("last").kernel.numpy()[:, :, [0, 1, 3]])


def test_command_writes_a_start_for_training(randomised, run_program, histology, tmp_path, capsys):
    randomised(networks.generator(4, 1, 4)).save(tmp_path / "whole.keras")
    Image.fromarray(histology[:60, :70]).save(tmp_path / "lr.png")
    flags = (f"--model={tmp_path / 'whole.keras'}", "--tail_filters=2", f"--output={tmp_path / 'start.keras'}")
    assert run_program(pruning, *flags, f"--pictures={tmp_path}") == 0
    said = capsys.readouterr().out
    assert "whole: 0.020 M multiply-adds" in said  # 972 + 3 * 144 + 576 + 4 * 576 + 16 * 972 = 19,836
    assert load_generator(tmp_path / "start.keras").facts.tail_filters == 2
    with pytest.raises(ValueError, match=r"`output` must be a \.keras file that does not exist"):
        run_program(pruning, *flags)


def test_command_fits_the_tail_to_the_whole_model_and_leaves_the_trunk(randomised, run_program, shards, tmp_path,
                                                                       capsys):
    whole = randomised(networks.generator(4, 1, 4))
    whole.save(tmp_path / "whole.keras")
    flags = (f"--model={tmp_path / 'whole.keras'}", "--tail_filters=3")
    assert run_program(pruning, *flags, f"--output={tmp_path / 'pruned.keras'}") == 0
    fit = (*flags, f"--train_data={shards / 'slide-a'},{shards / 'slide-b'}", f"--output={tmp_path / 'fitted.keras'}")
    assert run_program(pruning, *fit, "--steps=60") == 0
    said = capsys.readouterr().out
    before, after = (float(part.split(" dB")[0]) for part in said.partition("written")[2].split("whole one's: ")[1]
                     .split("after the fit: "))
    assert after > before + 1
    pruned, fitted = (load_keras(tmp_path / f"{name}.keras") for name in ("pruned", "fitted"))
    assert [variable.path for variable in fitted.trainable_variables] == [
        variable.path for variable in pruned.trainable_variables]
    changed = {one.path.partition("/")[0] for one, other in zip(fitted.variables, pruned.variables, strict=True)
               if not np.array_equal(one, other)}
    assert changed == {"up1_conv", "up2_conv", "last"}
    lr = tissue(None)[:4]
    assert pruning.likeness(fitted, whole, lr) > pruning.likeness(pruned, whole, lr) + 1


def test_mistake_in_the_shards_is_told_before_anything_is_computed(run_program, model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nosuch"):
        run_program(pruning, f"--model={model}", "--tail_filters=2", f"--output={tmp_path / 'start.keras'}",
                    "--train_data=nosuch")
    assert not (tmp_path / "start.keras").exists()


@pytest.mark.parametrize("count", [0, 5])
def test_more_filters_than_there_are_or_none_are_refused(count, randomised):
    with pytest.raises(ValueError, match=rf"`tail_filters` must be 1 to 4, .*tail_filters={count}"):
        prune(randomised(networks.generator(2, 1, 4)), count, tissue(None)[:1])


def test_folder_without_pictures_is_refused(tmp_path):
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="`pictures` must be a folder of PNG pictures of 48 pixels or more"):
        tissue(tmp_path)
