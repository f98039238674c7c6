# SPDX-License-Identifier: Apache-2.0
"""The finished DICOM whole slide image: a folder with one file for each level, tiles row by row (TILED_FULL).

The tiles are frames as they are: JPEG baseline, or JPEG 2000 without loss. The image is marked as derived, and says
which model made it. It has no patient, unless `Origin.patient` is given; then it belongs to the same study and
specimen. Its frame of reference is its own, since it may show a part of the source. UIDs follow from the description
and dates from the source, so that a resumed run ends with the same bytes. Colours are declared as sRGB.

Source: DICOM PS3.3 A.32.8 (VL Whole Slide Microscopy Image), PS3.5 A.4 (encapsulated frames). Needs the extra `dicom`.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import ImageCms

from pipelines.console import import_optional
from pipelines.errors import slide_errors
from pipelines.pyramid.tiff import Level, PyramidOptions, printable
from pipelines.readers.folders import WHOLE_SLIDE, files_of, series_of

# What identifies the patient, the case and the glass; the rest of a source is not carried over.
PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName", "ContainerIdentifier", "IssuerOfTheContainerIdentifierSequence",
    "ContainerTypeCodeSequence", "SpecimenDescriptionSequence", "AcquisitionDateTime")
JPEG, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
ITEM, ITEM_END = 0xE000, 0xE0DD
LARGEST_BASIC_OFFSET = 2**32 - 1
SLIDE_SIDE = 1e3  # microns in a millimetre, the unit of DICOM
DEPTH = 0.004  # of the section in millimetres, a usual one; DICOM requires a value
ICC_DATE = slice(24, 36)  # of a profile, which says when it was made


@dataclass(frozen=True)
class Origin:
    """What a DICOM says of its making: name of the model, its version, the program, the time of the source (seconds).

    `patient` is the pydicom dataset from `patient_of`, or None.
    """

    model: str = "unknown"
    version: str = ""
    software: str = "sr_keras"
    time: float = 0.0
    patient: Any = None


def patient_of(source: Path) -> Any:
    """Return the dataset of a DICOM slide without its pixels, for `Origin.patient`.

    Raises:
        ValueError: The source is not DICOM.
        SlideError: It is damaged.
        UserError: The extra `dicom` is not installed.
    """
    pydicom = import_optional("pydicom", "dicom")
    first = next((path for path in files_of(source) if series_of(path)), None)
    if first is None:
        raise ValueError("`keep_patient` must be left out for a source that is not DICOM: it has no patient fields. "
                         f"Received: {str(source)!r}")
    with slide_errors(source):
        dataset = pydicom.dcmread(first, stop_before_pixels=True)
        dataset.decode()
    return dataset


def write_dicom(path: Path, levels: Sequence[Level], tiles: Callable[[int], Iterable[bytes]], options: PyramidOptions,
                mpp: float, description: str, icc_profile: bytes | None, origin: Origin) -> None:
    """Write a pyramid into an empty folder; the other arguments as of `pipelines.pyramid.tiff.write_tiff`.

    Pixels without a colour profile are taken for sRGB.
    """
    pydicom = import_optional("pydicom", "dicom")
    common = _common(description, origin)
    colours = {"ICCProfile": icc_profile + bytes(len(icc_profile) % 2)} if icc_profile else _srgb()
    for number, level in enumerate(levels):
        sizes = [len(data) + len(data) % 2 for data in tiles(number)]
        image = _level(common, level, number, options, mpp * 2**number / SLIDE_SIDE, description, sum(sizes), colours)
        offsets = [0]
        for size in sizes[:-1]:
            offsets.append(offsets[-1] + size + 8)
        if offsets[-1] > LARGEST_BASIC_OFFSET:
            image.ExtendedOffsetTable = struct.pack(f"<{len(sizes)}Q", *offsets)
            image.ExtendedOffsetTableLengths = struct.pack(f"<{len(sizes)}Q", *sizes)
            offsets = []
        file = path / f"level{number}.dcm"
        pydicom.dcmwrite(file, image, enforce_file_format=True, implicit_vr=False, little_endian=True)
        with file.open("ab") as out:
            out.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
            out.write(struct.pack(f"<HHI{len(offsets)}I", 0xFFFE, ITEM, 4 * len(offsets), *offsets))
            for data, size in zip(tiles(number), sizes, strict=True):
                out.write(struct.pack("<HHI", 0xFFFE, ITEM, size) + data.ljust(size, b"\0"))
            out.write(struct.pack("<HHI", 0xFFFE, ITEM_END, 0))


def _common(description: str, origin: Origin) -> Any:
    """Return the dataset that all levels share."""
    made = datetime.fromtimestamp(origin.time, UTC)
    date, time = made.strftime("%Y%m%d"), made.strftime("%H%M%S")
    specimen = _dataset(SpecimenIdentifier="unknown", SpecimenUID=_uid(description, "specimen"),
                        IssuerOfTheSpecimenIdentifierSequence=[], SpecimenPreparationSequence=[])
    image = _dataset(
        SpecificCharacterSet="ISO_IR 192", SOPClassUID=WHOLE_SLIDE, Modality="SM", PatientName="", PatientID="",
        PatientBirthDate="", PatientSex="", StudyInstanceUID=_uid(description, "study"), StudyID="", StudyDate="",
        StudyTime="", AccessionNumber="", ReferringPhysicianName="", SeriesNumber=1,
        SeriesInstanceUID=_uid(description, "series"), PyramidUID=_uid(description, "pyramid"),
        FrameOfReferenceUID=_uid(description, "frame"), PositionReferenceIndicator="SLIDE_CORNER",
        ContainerIdentifier="unknown", IssuerOfTheContainerIdentifierSequence=[],
        ContainerTypeCodeSequence=[_code("433466003", "SCT", "Microscope slide")],
        SpecimenDescriptionSequence=[specimen], AcquisitionContextSequence=[], AcquisitionDateTime=date + time,
        ContentDate=date, ContentTime=time, Manufacturer="sr_keras",
        ManufacturerModelName=printable(origin.model)[:64], DeviceSerialNumber=printable(origin.version or "none")[:64],
        SoftwareVersions=origin.software[:64])
    if origin.patient is not None:
        for name in PATIENT:
            if name in origin.patient:
                image[name] = origin.patient[name]
        source = {"ReferencedSOPClassUID": origin.patient.SOPClassUID,
                  "ReferencedSOPInstanceUID": origin.patient.SOPInstanceUID}
        purpose = _code("121322", "DCM", "Source image for image processing operation")
        image.SourceImageSequence = [_dataset(**source, PurposeOfReferenceCodeSequence=[purpose])]
        image.ReferencedSeriesSequence = [_dataset(SeriesInstanceUID=origin.patient.SeriesInstanceUID,
                                                   ReferencedInstanceSequence=[_dataset(**source)])]
    version = f" version {origin.version}" if origin.version else ""
    image.DerivationDescription = f"super-resolution by the model {printable(origin.model)}{version}, {origin.software}"
    image.DerivationCodeSequence = [_code("113085", "DCM", "Spatial resampling")]
    image.ImageComments = description  # LT: 10,240 characters
    return image


def _level(common: Any, level: Level, number: int, options: PyramidOptions, spacing: float, description: str,
           stored: int, colours: dict[str, Any]) -> Any:
    """Return the dataset of a level without its pixels; `spacing` is in millimetres, `stored` the bytes of tiles."""
    from pydicom.dataset import FileMetaDataset

    image = _dataset()
    image.update(common)
    frame_type = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    lossy = options.quality is not None
    kind = [_dataset(FrameType=frame_type)]
    optics = _dataset(
        OpticalPathIdentifier="1", IlluminationColorCodeSequence=[_code("414298005", "SCT", "Full Spectrum")],
        IlluminationTypeCodeSequence=[_code("111744", "DCM", "Brightfield illumination")], **colours)
    shared = _dataset(
        PixelMeasuresSequence=[_dataset(PixelSpacing=[_decimal(spacing)] * 2, SliceThickness=DEPTH)],
        WholeSlideMicroscopyImageFrameTypeSequence=kind,
        OpticalPathIdentificationSequence=[_dataset(OpticalPathIdentifier="1")])
    organization = _uid(description, "dimensions")
    fields = {
        "SOPInstanceUID": _uid(description, f"level {number}"), "InstanceNumber": number + 1,
        "ImageType": frame_type, "SamplesPerPixel": 3, "PlanarConfiguration": 0,
        "PhotometricInterpretation": "YBR_FULL_422" if lossy else "YBR_RCT", "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "Rows": level.tile, "Columns": level.tile,
        "NumberOfFrames": level.count, "TotalPixelMatrixColumns": level.width, "TotalPixelMatrixRows": level.height,
        "TotalPixelMatrixFocalPlanes": 1, "NumberOfOpticalPaths": 1, "ImagedVolumeWidth": level.width * spacing,
        "ImagedVolumeHeight": level.height * spacing, "ImagedVolumeDepth": DEPTH * SLIDE_SIDE,
        "TotalPixelMatrixOriginSequence": [
            _dataset(XOffsetInSlideCoordinateSystem=0.0, YOffsetInSlideCoordinateSystem=0.0)],
        "ImageOrientationSlide": [0.0, -1.0, 0.0, -1.0, 0.0, 0.0], "OpticalPathSequence": [optics],
        "DimensionOrganizationType": "TILED_FULL",
        "DimensionOrganizationSequence": [_dataset(DimensionOrganizationUID=organization)],
        "SharedFunctionalGroupsSequence": [shared], "VolumetricProperties": "VOLUME", "FocusMethod": "AUTO",
        "ExtendedDepthOfField": "NO", "SpecimenLabelInImage": "NO", "BurnedInAnnotation": "NO",
        # A scan was compressed by its scanner, nearly always, and an image that ever was must say so.
        "LossyImageCompression": "01", "LossyImageCompressionMethod": "ISO_10918_1",
        "LossyImageCompressionRatio": _decimal(3 * level.tile**2 * level.count / stored if lossy else 1.0)}
    for name, value in fields.items():
        setattr(image, name, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = JPEG if lossy else JPEG_2000
    image.file_meta.MediaStorageSOPClassUID = WHOLE_SLIDE
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def _dataset(**elements: Any) -> Any:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Any:
    return _dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _uid(description: str, what: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=[description, what])


def _decimal(value: float) -> str:
    """Return a number as a Decimal String, of 16 characters at most."""
    return f"{value:.10g}"


def _srgb() -> dict[str, Any]:
    """Return the fields of sRGB; its profile is without the date at which it was made."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[ICC_DATE] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return {"ICCProfile": bytes(profile) + bytes(len(profile) % 2), "ColorSpace": "SRGB"}
