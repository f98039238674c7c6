# SPDX-License-Identifier: Apache-2.0
"""Names that are not UTF-8, lists of paths with commas in them, and folders with links."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from absl import flags

from pipelines.console import parse, resolved
from pipelines.names import escaped, printable, split_paths, walk
from pipelines.options import define_paths

LATIN = os.fsdecode(b"M\xfcller")


def names_in(root):
    return sorted(str((folder / name).relative_to(root)) for folder, names in walk(root) for name in names)


@pytest.mark.parametrize(("name", "text"), [
    ("plain 1", "plain 1"), ("\u0645\u06cc\u200c\u0646", "\u0645\u06cc\u200c\u0646"),
    ("Müller 病", "Müller 病"), (LATIN, r"M\xfcller"),
    ("a\u202egnp.exe", r"a\u202egnp.exe"), ("\u2067a\u2069\x9b2J\x1b[2J\x07", r"\u2067a\u2069\x9b2J\x1b[2J\x07")])
def test_printable_name_is_text_and_that_of_utf_8_stays(name, text):
    assert printable(name) == text
    text.encode()


@pytest.mark.parametrize(("text", "paths"), [
    ("a.svs", ["a.svs"]), ("a.svs, b.svs,", ["a.svs", "b.svs"]), ("", []), (" , ", []), ("sample", ["sample"]),
    ("Smith, J.tif", ["Smith, J.tif"]), ("Smith, J.tif,a.svs", ["Smith, J.tif", "a.svs"]),
    ("a.svs,Smith, J.tif", ["a.svs", "Smith, J.tif"]), ("Batch 3, HE/Smith, J.tif, a.svs", [
        "Batch 3, HE/Smith, J.tif", "a.svs"]),
    ("a,b,c", ["a,b", "c"]), ('"Gone, J.tif",a.svs', ["Gone, J.tif", "a.svs"]), ('in"ch.tif', ['in"ch.tif']),
    ("Gone, J.tif", ["Gone", "J.tif"]), (f"{LATIN},a.svs", [LATIN, "a.svs"]), (r"M\udcfcller,a.svs", [LATIN, "a.svs"]),
])
def test_list_of_paths_keeps_what_exists_whole(text, paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("Batch 3, HE").mkdir()
    for name in ("a.svs", "b.svs", "a", "a,b", "Smith, J.tif", "Batch 3, HE/Smith, J.tif", 'in"ch.tif', LATIN):
        Path(name).write_bytes(b"")
    assert split_paths(text) == paths


def test_flag_file_of_a_run_names_the_same_paths(tmp_path):
    """With a comma, quotes, and bytes that are not UTF-8."""
    paths = [str(tmp_path / name) for name in ("Smith, J.tif", 'the "best".tif', f"{LATIN}.tif", "plain.tif")]
    for path in paths:
        Path(path).write_bytes(b"")
    values = [flags.FlagValues() for _ in range(3)]
    for one in values:
        define_paths(one, "data", ["sample"], "Slides.")
    values[0].data = paths
    (tmp_path / "flags.txt").write_text(resolved(values[0]), encoding="utf-8")
    parse(["program", f"--flagfile={tmp_path / 'flags.txt'}"], values[1])
    assert values[1].data == paths
    assert resolved(values[1]) == resolved(values[0]) == escaped(resolved(values[0]))
    parse(["program"], values[2])
    assert values[2].data == ["sample"]


def test_linked_folders_are_walked_once_and_after_real_ones(tmp_path):
    store, cohort = tmp_path / "store", tmp_path / "cohort"
    for name in ("store/case1/inner", "store/case2", "cohort/zz_real", "cohort/.hidden"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("store/case1/1.tif", "store/case1/inner/2.tif", "store/case2/3.tif", "cohort/zz_real/4.tif",
                 "cohort/.hidden/5.tif", "cohort/.6.tif"):
        (tmp_path / name).write_bytes(b"")
    for link, target in (("case1", store / "case1"), ("again", store / "case1"), ("case2", store / "case2"),
                         ("aa_real", cohort / "zz_real"), ("loop", cohort), ("zz_real/up", cohort)):
        (cohort / link).symlink_to(target)
    assert names_in(cohort) == ["again/1.tif", "again/inner/2.tif", "case2/3.tif", "zz_real/4.tif"]


def test_what_cannot_be_walked_is_named_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    for name in ("good", "locked"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tif").write_bytes(b"")
    (tmp_path / "case3").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to("circle")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "good/a.tif" in names_in(tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert sorted(said) == sorted([
        f"warning: {tmp_path}/locked: Permission denied; it is left out",
        f"warning: {tmp_path}/case3: leads nowhere; it is left out",
        f"warning: {tmp_path}/circle: leads nowhere; it is left out"])
