# SPDX-License-Identifier: Apache-2.0
"""Write shards: slides in parallel, each patch written before the next is read."""
from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from json import dumps
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipelines.anonymous import alias
from pipelines.cluster import Cluster
from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.files import DISK_FULL, atomic_path, full_disk_named, write_text
from pipelines.patches import Patch, Skipped, Source, read_patches
from pipelines.shards import reading
from pipelines.slide import SlideError
from pipelines.workers import Died, cores, run_jobs

LISTED = 3  # slides, or reasons, in an error
PRINTED = 10  # of what is skipped
SHARD_BYTES = 64 * 2**20
SMALL_BYTES = 64 * 2**20  # of slides: reading them takes less time than starting a second process


@dataclass(frozen=True)
class Report:
    """The result of `write_shards` for all requested slides; `kept` of them were finished before."""

    slides: int
    patches: int
    kept: int
    skipped: tuple[Skipped, ...]


def write_shards(sources: Iterable[Source], folder: str | os.PathLike[str], options: PatchOptions,
                 workers: int | None = None, strict: bool = False, progress: bool = True,
                 cluster: Cluster | None = None, anew: bool = False, name: str = "data",
                 max_skipped: float = 1.0) -> Report:
    """Write the patches of each slide to `folder`, except slides that are finished.

    Args:
        sources: With distinct slide ids.
        folder: Created if needed.
        options: Which patches.
        workers: Processes; by default one per core, and none for little data.
        strict: Raise an error at the first slide or patch that cannot be read. Missing tissue is not an error.
        progress: Show a progress bar.
        cluster: Read on its workers instead; `workers` is then ignored.
        anew: Write slides again that have patches from other options or files, instead of refusing them.
        name: The flag of the slides, for error messages.
        max_skipped: Share of the slides and tiles that may give no patch.

    Raises:
        ValueError: `folder` holds patches from other options or files, there is no patch, or too many slides and tiles
            give none.
        SlideError: With `strict`, something cannot be read.
        OSError: `folder` cannot be written, for instance on a full disk. Finished slides are kept.
    """
    sources, folder = list(sources), Path(folder)
    ids = [source.slide_id for source in sources]
    require(len(set(ids)) == len(ids), "sources", "have distinct slide ids", "name each slide once", sorted(ids))
    require(workers is None or workers > 0, "workers", "be positive", "leave it out for one per core", workers)
    pages = {source.slide_id: page for source in sources
             if (page := reading.finished_page(source, folder, options, anew))}
    kept = len(pages)
    todo = sorted((source for source in sources if source.slide_id not in pages), key=_bytes, reverse=True)
    processes = 1 if sum(map(_bytes, todo)) < SMALL_BYTES else min(cores(), len(todo))
    with full_disk_named(folder, reading.REMEDY):
        write_text(folder / reading.UNFINISHED, "")
    with tqdm(total=len(sources), initial=kept, unit="slide", miniters=0, disable=not progress) as bar:
        patches = _patches_in(pages)

        def report(more: int) -> None:
            nonlocal patches
            patches += more
            bar.set_postfix(patches=patches, refresh=False)
            bar.update(0)

        report(0)
        work = partial(write_slide, folder=folder, options=options, strict=strict)
        outcomes = (cluster.run_jobs(work, todo, report) if cluster
                    else run_jobs(work, todo, workers or processes, report))
        for source, outcome in outcomes:
            page = _give_up(source, folder, options, str(outcome)) if isinstance(outcome, Died) else outcome
            pages[source.slide_id] = page
            bar.update()
    skipped = tuple(item for slide_id in ids for item in pages[slide_id]["skipped"])
    _refuse_broken(skipped, strict)
    why = "; ".join(sorted({item.reason for item in skipped})[:LISTED])
    paths = [str(path.parent if source.tiles else path) for source in sources[:LISTED] for path in source.files[:1]]
    require(_patches_in(pages) > 0, name, "give at least one patch", why or "name slides", ", ".join(paths))
    _check_share(sources, pages, max_skipped, name)
    (folder / reading.UNFINISHED).unlink(missing_ok=True)
    return Report(len(sources), _patches_in(pages), kept, skipped)


def write_slide(source: Source, report: Callable[[int], None], folder: Path, options: PatchOptions,
                strict: bool) -> reading.Page:
    """Write one slide's shards, then its page, and return the page. After an error nothing of it is left."""
    reading.remove(folder, source.slide_id)
    skipped: list[Skipped] = []
    shards: list[reading.ShardEntry] = []
    found: dict[str, int] = {}  # size and scale of pairs
    patches = _patches(source, options, strict, skipped)
    try:
        for first in patches:
            size = first.pixels.shape[0]
            if first.lr is not None:
                found = {"patch_size": size, "scale": size // first.lr.shape[0]}
            some = chain([first], islice(patches, max(1, SHARD_BYTES // (3 * size**2)) - 1))
            shards.append(_write_shard(some, reading.shard_path(folder, source.slide_id, len(shards)), report))
        return _write_page(source, folder, options, shards, skipped, found)
    except BaseException:
        reading.remove(folder, source.slide_id)
        raise


def _patches(source: Source, options: PatchOptions, strict: bool, skipped: list[Skipped]) -> Iterator[Patch]:
    """Yield the patches; add everything else to `skipped`."""
    for item in read_patches(source, options):
        if isinstance(item, Patch):
            yield replace(item, name=alias(item.name, source.key)) if source.key and source.tiles else item
        else:
            _refuse_broken([item], strict)
            skipped.append(item)


def _write_shard(patches: Iterable[Patch], path: Path, report: Callable[[int], None]) -> reading.ShardEntry:
    import tensorflow as tf

    from pipelines.shards.records import encode

    tissue = []
    with full_disk_named(path, reading.REMEDY), atomic_path(path) as temporary:
        try:
            with tf.io.TFRecordWriter(os.fsencode(temporary)) as writer:
                for patch in patches:
                    writer.write(encode(patch))
                    tissue.append(float(np.float32(patch.tissue)))
                    report(1)
        except tf.errors.OpError as error:
            reason = error.message.rpartition("; ")[2]  # "PATH; REASON", the reason from the system
            code = next((code for code in DISK_FULL if os.strerror(code) == reason), errno.EIO)
            raise OSError(code, reason, str(path)) from error
        return {"name": path.name, "bytes": temporary.stat().st_size, "tissue": tissue}


def _write_page(source: Source, folder: Path, options: PatchOptions, shards: list[reading.ShardEntry],
                skipped: list[Skipped], found: dict[str, int]) -> reading.Page:
    """Write a slide's page; `found` replaces options by what was found while reading.

    What an anonymous slide's page says of skipped patches has no names; the returned page has them, for the screen.
    """
    known = reading.fingerprint(source, options)
    page = reading.Page(format=reading.FORMAT, slide_id=source.slide_id, options=known["options"] | found,
                        region=known["region"], files=known["files"], shards=shards, skipped=skipped,
                        count=sum(len(shard["tissue"]) for shard in shards))
    path = reading.page_path(folder, source.slide_id)
    with full_disk_named(path, reading.REMEDY):
        written = [_nameless(item, source.key, source.tiles) for item in skipped] if source.key else skipped
        write_text(path, dumps({**page, "skipped": written}, default=asdict) + "\n")
    return page


def _nameless(item: Skipped, key: bytes, is_tile: bool) -> Skipped:
    return replace(item, where=alias(item.where, key) if is_tile else item.where, reason="the screen said why")


def _give_up(source: Source, folder: Path, options: PatchOptions, reason: str) -> reading.Page:
    """Write a page for a slide that kills its reader, so that the next run does not try it again."""
    reading.remove(folder, source.slide_id)
    skipped = Skipped(source.slide_id, "slide", f"{source.files[0]}: {reason}")
    return _write_page(source, folder, options, [], [skipped], {})


def print_skipped(skipped: Sequence[Skipped]) -> None:
    """Print what gave no patch, with the reasons, or the first of it."""
    for item in skipped[:PRINTED]:
        print(f"skipped: {item.slide_id}, {item.where}: {item.reason}")
    if len(skipped) > PRINTED:
        print(f"skipped: {len(skipped) - PRINTED} more")


def _refuse_broken(skipped: Iterable[Skipped], strict: bool) -> None:
    for item in skipped:
        if strict and item.broken:
            raise SlideError(f"{item.slide_id}, {item.where}: {item.reason}")


def _check_share(sources: Sequence[Source], pages: dict[str, reading.Page], max_skipped: float, name: str) -> None:
    """Refuse slides and tiles of which a larger share than `max_skipped` gives no patch; count them by reason."""
    lost, total = Counter[str](), 0
    for source in sources:
        page, files = pages[source.slide_id], len(source.paths) if source.tiles else 1
        reasons = {item.where: _reason(item, source) for item in page["skipped"]}
        total += files
        if source.tiles and "slide" not in reasons:
            lost.update(islice(reasons.values(), files))
        elif page["count"] == 0:
            lost[next(iter(reasons.values()), "no patch was found")] += files
    why = "; ".join(f"{count} times: {reason}" for reason, count in lost.most_common(LISTED))
    require(lost.total() <= max_skipped * total, name, f"give patches from {1 - max_skipped:.0%} of its files",
            f"correct what the reasons say, or set --max_skipped=1 to use the others ({why})",
            f"patches from {total - lost.total()} of {total}")


def _reason(item: Skipped, source: Source) -> str:
    """Return why something was skipped, without the name of its file."""
    first = source.files[0]
    paths = (first, first.parent, first.parent / item.where)
    return next((item.reason[len(f"{path}: "):] for path in paths if item.reason.startswith(f"{path}: ")), item.reason)


def _patches_in(pages: dict[str, reading.Page]) -> int:
    return sum(page["count"] for page in pages.values())


def _bytes(source: Source) -> int:
    return sum(reading.size_of(path) or 0 for path in source.files)
