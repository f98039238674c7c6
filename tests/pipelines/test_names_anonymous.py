# SPDX-License-Identifier: Apache-2.0
"""Names become keyed hashes, which keep the case and need a key of some length."""
from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.names import alias, read_key
from pipelines.sources import Source, split_sources


def test_hash_is_hmac_sha256():
    assert alias("Hi There", b"\x0b" * 20) == "anon-b0344c61d8db3853"  # RFC 4231, test case 1


def test_hash_needs_the_key_and_keeps_the_case(tmp_path):
    one, other = read_key(tmp_path / "one"), read_key(tmp_path / "other")
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    assert read_key(tmp_path / "one") == one != other
    assert len({alias(name, key) for name in ("a", "b") for key in (one, other)}) == 4
    slides = [Source(alias(f"TCGA-AA-000{case}-01Z-00-DX{slide}", one), (Path(f"{case}{slide}.svs"),))
              for case in range(4) for slide in range(3)]
    parts = split_sources(slides, 0.25, 0.25)
    cases = [{source.slide_id.rsplit("-", 1)[0] for source in part} for part in parts]
    assert [len(part) for part in cases] == [2, 1, 1]
    assert set.union(*cases) == {source.slide_id.rsplit("-", 1)[0] for source in slides}


@pytest.mark.parametrize("content", [b"short", None])
def test_file_that_is_no_key_is_refused(content, tmp_path):
    path = tmp_path / "key"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match="`anonymous` must be a file with a key"):
        read_key(str(path))
