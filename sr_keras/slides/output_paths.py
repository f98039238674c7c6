"""Which file goes where: pictures become pictures, slides become slides, and nothing is written over unasked."""
from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import require
from pipelines.slide import SlideError, open_slide, slide_id_of
from pipelines.sources import SLIDE_SUFFIXES, TIFF_SUFFIXES, TILE_SUFFIXES
from sr_keras.slides.departure import is_map
from sr_keras.slides.trust import trust_paths

if TYPE_CHECKING:
    from sr_keras.slides.config import EnlargeOptions

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
WRITTEN = (*PICTURE_SUFFIXES, ".tif", ".tiff")
INDEX_SUFFIXES = (".vms", ".vmu")  # lists of the JPEGs that are the slide and lie beside it
READ = TILE_SUFFIXES | SLIDE_SUFFIXES


def plan(spec: str, output: Path, scale: int, *, ome: bool = False, overwrite: bool = False,
         resume: bool = False) -> list[tuple[Path, Path]]:
    """Return which file becomes which, before anything is computed.

    Args:
        spec: A picture, a slide, a folder (searched to its depth), or a comma list of them.
        output: A picture or a .tif for one file; a folder for one or many: pictures become NAME.png there, slides
            NAME_x4.tif.
        scale: SR side over LR side.
        ome: Whether slides become OME-TIFF.
        overwrite: Whether what is there may be replaced.
        resume: Whether what is there may be left as it is.

    Raises:
        FileNotFoundError: There is no such input.
        ValueError: A folder has nothing to read; the output has a suffix that can't be written, would replace an input
            or, unasked, anything else; or two files would have one output.
    """
    inputs = find_inputs(spec)
    suffix = f"_x{scale}.ome.tif" if ome else f"_x{scale}.tif"
    if len(inputs) == 1 and inputs[0].is_file():
        pairs = [(inputs[0], _plan_file(inputs[0], output, suffix))]
    else:
        pairs = _plan_many(inputs, output, suffix)
    sources, uses = {realpath(path) for path, _ in pairs}, Counter(path for _, path in pairs)
    for target, count in uses.items():
        require(realpath(target) not in sources, "output", "be another file than the input", "name another",
                str(target))
        require(count == 1, "input", f"give {target} one picture", "rename the others", spec)
        require(overwrite or resume or not target.exists(), "output", "be new",
                "name another, or add --overwrite (or --resume, to leave it)", str(target))
    return pairs


def plan_trust(pairs: list[tuple[Path, Path]], output: Path, trust_map: Path, *, overwrite: bool = False,
               resume: bool = False) -> list[Path]:
    """Return where the map of trust of each output goes, before anything is computed.

    Args:
        pairs: From `plan`.
        output: What was given to it.
        trust_map: A .tif for one file; a folder for one or many: maps become NAME_trust.tif there, in folders as
            outputs are.
        overwrite: Whether what is there may be replaced.
        resume: Whether maps that are there may be left or completed.

    Raises:
        ValueError: A map would replace an input, an output or, unasked, anything else; two files would have one map;
            or it is neither a .tif nor a folder.
    """
    if trust_map.suffix.lower() in TIFF_SUFFIXES and not trust_map.is_dir():
        require(len(pairs) == 1, "trust_map", f"be a folder, as {len(pairs)} files are read", "name one",
                str(trust_map))
        maps = [trust_map]
    else:
        require(trust_map.is_dir() or not (trust_map.suffix or trust_map.exists()), "trust_map",
                "end in .tif, or be a folder", "choose one of these", str(trust_map))
        roots = [output if output in target.parents else target.parent for _, target in pairs]
        maps = [trust_map / target.relative_to(root).with_name(f"{slide_id_of(source)}_trust.tif")
                for (source, target), root in zip(pairs, roots, strict=True)]
    taken, uses = {realpath(path) for pair in pairs for path in pair}, Counter(maps)
    for path in maps:
        require(uses[path] == 1, "trust_map", f"get one map of the name {path.name} there", "rename the inputs",
                str(trust_map))
        for part in trust_paths(path):
            require(realpath(part) not in taken, "trust_map", "be another file than inputs and outputs",
                    "name another", str(part))
            require(overwrite or resume or not part.exists(), "trust_map", "be new",
                    "name another, or add --overwrite (or --resume, to complete it)", str(part))
        require(overwrite or not path.exists() or is_map(path), "trust_map", "be a map to be left or completed",
                "name another, or add --overwrite", str(path))
    return maps


def find_inputs(spec: str) -> list[Path]:
    """Return the files and folders that `spec` names.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: It names none.
    """
    names = [spec] if Path(spec).exists() else [name.strip() for name in spec.split(",") if name.strip()]
    require(bool(names), "input", "name a picture, a slide or a folder", "separate several by commas", spec)
    for name in names:
        if not Path(name).exists():
            raise FileNotFoundError("`input` must name pictures, slides or folders that are there; check the spelling. "
                                    f"Received: input={name!r}")
    return [Path(name) for name in names]


def check_output(output: Path, options: EnlargeOptions) -> None:
    """Refuse flags that a file of that name would not follow; in a folder there may be some of each kind.

    Raises:
        ValueError: It would not.
    """
    if output.is_dir() or not is_picture(output):
        return
    suffix = output.suffix.lower()
    require(options.format is None, "format", f"be left out for a {suffix}", "name a .tif for it",
            options.format)
    require(options.quality is None or suffix != ".png", "quality", "be left out for a .png, which loses nothing",
            "name a .jpg or a .tif for it", options.quality)
    require(not options.lossless or suffix == ".png", "lossless", f"be left out for a {suffix}",
            "name a .png or a .tif for it", options.lossless)


def check_writable(name: str, paths: Iterable[Path]) -> None:
    """Refuse, before hours of inference, paths that no file can be written to after them; nothing is left behind.

    Args:
        name: The argument that names them.
        paths: Of files that may be there or not, in folders that may be there or not.

    Raises:
        ValueError: The nearest folder that is there takes no file.
    """
    nearest = {next(folder for folder in path.parents if folder.exists()): path for path in paths}
    for folder, path in nearest.items():
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(f"`{name}` must lie where files can be written; name another place, since {folder} takes "
                             f"none ({error.strerror}). Received: {name}={str(path)!r}") from error


def is_slide(path: Path) -> bool:
    """Whether a file is a slide: by its suffix; a TIFF if it has levels or says its mpp."""
    suffix = path.suffix.lower()
    if suffix not in TIFF_SUFFIXES:
        return suffix in SLIDE_SUFFIXES
    try:
        with open_slide(path) as slide:
            return len(slide.level_dimensions) > 1 or slide.mpp is not None
    except (OSError, SlideError):
        return False  # it fails when its turn comes, and says why


def is_picture(target: Path) -> bool:
    """Whether an output is made in memory: PNG and JPEG."""
    return target.suffix.lower() in PICTURE_SUFFIXES


def _name(path: Path, suffix: str) -> str:
    return slide_id_of(path) + (suffix if is_slide(path) else ".png")


def _plan_file(source: Path, output: Path, suffix: str) -> Path:
    if output.suffix.lower() in WRITTEN and not output.is_dir():
        return output
    require(output.is_dir() or not output.suffix, "output", f"end in one of {', '.join(WRITTEN)}, or be a folder",
            "choose one of these", str(output))
    return output / _name(source, suffix)


def _plan_many(inputs: list[Path], output: Path, suffix: str) -> list[tuple[Path, Path]]:
    require(not output.is_file() and output.suffix.lower() not in WRITTEN, "output", "be a folder, as the input is",
            "name one", str(output))
    pairs = []
    for path in inputs:
        found = _in_folder(path, output) if path.is_dir() else [path]
        require(bool(found), "input", f"have pictures or slides in it ({', '.join(sorted(READ))})",
                "name another folder", str(path))
        root = path if path.is_dir() else path.parent
        pairs += [(file, output / file.relative_to(root).with_name(_name(file, suffix))) for file in found]
    # Where slides lie beside their results, those are no input the next time.
    made = {realpath(target) for _, target in pairs if target.name.endswith(suffix)}
    return [(source, target) for source, target in pairs if realpath(source) not in made]


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _in_folder(folder: Path, output: Path) -> list[Path]:
    """Return what can be read under a folder, but for results inside of it, maps of trust and parts of slides.

    A link to nothing is among it: it fails when its turn comes, and is not passed over in silence.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READ
                   and (path.is_file() or _is_broken(path)) and not path.name.startswith(".")
                   and (output == folder or not path.is_relative_to(output)))
    parts = {path.parent / name for path in found if path.suffix.lower() in INDEX_SUFFIXES and path.is_file()
             for name in re.findall(r"=\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)}
    parts |= {part for path in found if path.suffix.lower() in TIFF_SUFFIXES and is_map(path)
              for part in trust_paths(path)}
    return [path for path in found if path not in parts]
