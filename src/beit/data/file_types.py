"""Which files are images: by extension where it is known, else by their first bytes.

An extension is a hint, not a filter. Known extensions are accepted by name, so that a large folder
is listed without opening a file; a file with an unknown one, or none, is recognised by its content.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from PIL import features

FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"),
    *(("JPEG2000",) if features.check("jpg_2000") else ()),
    *(("AVIF",) if features.check("avif") else ()),
)
"""The formats that are decoded, by Pillow's names; the last two if Pillow was built with them."""

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
}
"""The extensions of each format, the usual one first."""

IMAGE_EXTENSIONS = frozenset(
    extension for name, extensions in EXTENSIONS.items() if name in FORMATS
    for extension in extensions
)  # fmt: skip

NOT_AN_IMAGE = "not an image"

_DICOM = "DICOM is not decoded: convert it to PNG or TIFF with pydicom or dcm2img"
_CAMERA = (".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".dng")
_SLIDE = (".svs", ".ndpi", ".mrxs", ".scn", ".vsi")
_ARCHIVE = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_ARRAYS = (".npy", ".npz", ".h5", ".hdf5")
_RECORDS = (".tfrecord", ".lmdb", ".mdb")
_VIDEO = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
UNDECODED: dict[str, str] = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC is not decoded: convert it to JPEG or PNG"),
    **dict.fromkeys((".dcm", ".dicom"), _DICOM),
    ".nii": "a NIfTI volume: write its slices as PNG or TIFF with nibabel",
    ".jxl": "JPEG XL is not decoded: convert it to JPEG or PNG",
    ".svg": "a drawing of lines: render it to PNG",
    ".psd": "a Photoshop document: export it as PNG or TIFF",
    ".exr": "OpenEXR is not decoded: convert it to TIFF",
    ".hdr": "Radiance HDR is not decoded: convert it to TIFF",
    ".pdf": "a document: export its pages as PNG",
    **dict.fromkeys(_CAMERA, "a raw file of a camera: develop it to JPEG or TIFF"),
    **dict.fromkeys(_SLIDE, "a slide of a microscope: cut it into tiles with openslide"),
    **dict.fromkeys(_VIDEO, "a video: write its frames as JPEG"),
    **dict.fromkeys(_ARCHIVE, "an archive: unpack it"),
    **dict.fromkeys(_ARRAYS, "arrays: write the images as PNG or TIFF files"),
    **dict.fromkeys(_RECORDS, "records: write the images as files, tar shards or Parquet"),
    ".parquet": "a table: name it, or the folder it lies in, as the data if it holds images; "
    "else export it as CSV",
    ".tar": "an archive: unpack it, or name it, or the folder it lies in, as the data",
    ".lfs": "a pointer of Git LFS: bring the images with `git lfs pull`",
    ".html": "a web page, as downloads that fail leave behind",
}
"""Extensions of files that hold images but are not read, and what to do with them."""

OTHER_EXTENSIONS = frozenset(
    (
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".htm"),
        *(".log", ".ini", ".cfg", ".toml", ".db", ".sqlite", ".xls", ".xlsx", ".doc", ".docx"),
        *(".py", ".ipynb", ".m", ".sh", ".bat", ".exe", ".url", ".lnk"),
        *(".mat", ".pkl", ".pt", ".pth", ".onnx", ".safetensors", ".arrow", ".feather"),
        ".index",
        *(".cls", ".label", ".geojson", ".wav", ".mp3", ".aux", ".tfw", ".jgw", ".pgw"),
    )
)
"""Extensions that are known not to be images: such files are not opened to find out."""

SYSTEM_FOLDERS = frozenset(
    ("__macosx", "$recycle.bin", "system volume information", "lost+found", "#recycle", "@recycle")
)
THUMBNAIL_FOLDERS = frozenset(
    ("@eadir", "@__thumb", "_thumbs", "_thumbnails", "thumbs", "thumbnails")
)
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini"))

HEAD_BYTES = 132
"""This many first bytes are enough to recognise every format here."""

_HEADS: tuple[tuple[int, str, bytes], ...] = (
    (0, "JPEG", rb"\xff\xd8\xff"),
    (0, "PNG", rb"\x89PNG\r\n\x1a\n"),
    (0, "BMP", rb"BM"),
    (0, "GIF", rb"GIF8[79]a"),
    (0, "TIFF", rb"II[*+]\0|MM\0[*+]"),
    (0, "PPM", rb"P[1-6][\s#]"),
    (0, "WEBP", rb"RIFF....WEBP"),
    (0, "JPEG2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    (4, "AVIF", rb"ftyp(avi[fs]|....(....)*?avi[fs])"),
    (4, ".heic", rb"ftyp(hei[cxms]|hev[cx]|mif1|msf1)"),
    (128, ".dcm", rb"DICM"),
    (0, ".lfs", rb"version https://git-lfs"),
    (0, ".html", rb"(?i)\s*<(!doctype )?html"),
    (0, ".jxl", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
)
"""For each format the offset of its first bytes, its name (Pillow's, or an extension of
`UNDECODED`), and the pattern of these bytes."""
_KNOWN = [(at, kind, re.compile(head, re.DOTALL)) for at, kind, head in _HEADS]
_LIBRARIES = {"JPEG2000": ("JPEG 2000", "OpenJPEG"), "AVIF": ("AVIF", "libavif")}


def folder_to_skip(name: str) -> str:
    """Why a folder of this name is skipped; empty if it may hold images of the user's."""
    lower = name.lower()
    if lower in THUMBNAIL_FOLDERS:
        return "thumbnails"
    if lower in SYSTEM_FOLDERS:
        return "system folder"
    return "hidden" if name.startswith(".") else ""


def file_to_skip(name: str) -> str:
    """Why a file of this name is skipped; empty if it may be one of the user's."""
    if name.startswith("."):
        return "hidden"
    return "system file" if name.lower() in SYSTEM_FILES else ""


def path_to_skip(path: str) -> str:
    """Why a member of an archive is skipped, by any part of its path; empty if it is not."""
    *folders, name = (part for part in PurePosixPath(path).parts if part not in ("/", ".", ".."))
    reasons = (folder_to_skip(folder) for folder in folders)
    return next(filter(None, reasons), "") or file_to_skip(name)


def known_by_name(extension: str) -> str | None:
    """Whether files with a lower-case extension are images: empty if they are, the reason if they
    are not, None if only the content can tell."""
    if extension in IMAGE_EXTENSIONS:
        return ""
    if extension in UNDECODED:
        return UNDECODED[extension]
    return NOT_AN_IMAGE if extension in OTHER_EXTENSIONS else None


def known_by_head(head: bytes) -> str:
    """Whether the first bytes are those of an image that can be decoded: empty if they are, else
    the reason why not."""
    kind = next((kind for at, kind, known in _KNOWN if known.match(head, at)), "")
    if kind in FORMATS:
        return ""
    if kind in _LIBRARIES:
        name, library = _LIBRARIES[kind]
        return f"{name} needs a Pillow that was built with {library}"
    return UNDECODED.get(kind, NOT_AN_IMAGE)
