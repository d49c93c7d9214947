"""Which files are images: by extension where it is known, else by their first bytes.

An extension is a hint, not a filter. Known extensions are accepted by name, so that a large folder
is listed without opening a file; what has an unknown one, or none, is recognised by its content.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from PIL import features

AVIF = bool(features.check("avif"))
JPEG2000 = bool(features.check("jpg_2000"))

FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"),
    *(("JPEG2000",) if JPEG2000 else ()),
    *(("AVIF",) if AVIF else ()),
)
"""What is decoded, by Pillow's names; the last two where Pillow was built with them."""

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

_CAMERA = (".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".dng")
_SLIDE = (".svs", ".ndpi", ".mrxs", ".scn", ".vsi")
_VIDEO = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
UNDECODED: dict[str, str] = {
    ".heic": "HEIC is not decoded: convert it to JPEG or PNG",
    ".heif": "HEIC is not decoded: convert it to JPEG or PNG",
    ".hif": "HEIC is not decoded: convert it to JPEG or PNG",
    ".dcm": "DICOM is not decoded: convert it to PNG or TIFF with pydicom or dcm2img",
    ".dicom": "DICOM is not decoded: convert it to PNG or TIFF with pydicom or dcm2img",
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
}
"""Images of a kind that is not read, and what to do with them."""

OTHER_EXTENSIONS = frozenset(
    (
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html"),
        *(".log", ".ini", ".cfg", ".toml", ".db", ".sqlite", ".xls", ".xlsx", ".doc", ".docx"),
        *(".py", ".ipynb", ".m", ".sh", ".bat", ".exe", ".url", ".lnk"),
        *(".npy", ".npz", ".mat", ".h5", ".hdf5", ".pkl", ".pt", ".pth", ".onnx", ".safetensors"),
        *(".parquet", ".arrow", ".feather", ".tfrecord", ".lmdb"),
        *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".index"),
        *(".cls", ".label", ".geojson", ".wav", ".mp3", ".aux", ".tfw", ".jgw", ".pgw"),
    )
)
"""What is known to be no image and is not opened to find out."""

SYSTEM_FOLDERS = frozenset(
    ("__macosx", "$recycle.bin", "system volume information", "lost+found", "#recycle", "@recycle")
)
THUMBNAIL_FOLDERS = frozenset(("@eadir", "@__thumb", "_thumbs", "_thumbnails", "thumbnails"))
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini"))

HEAD_BYTES = 132
"""As many first bytes tell every format here."""

_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_PORTABLE = re.compile(rb"P[1-6][\s#]")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def folder_to_skip(name: str) -> str:
    """Why a folder of this name holds no images of the user's; empty if it may."""
    lower = name.lower()
    if lower in THUMBNAIL_FOLDERS:
        return "thumbnails"
    if lower in SYSTEM_FOLDERS:
        return "system folder"
    return "hidden" if name.startswith(".") else ""


def file_to_skip(name: str) -> str:
    """Why a file of this name is none of the user's; empty if it may be."""
    if name.startswith("."):
        return "hidden"
    return "system file" if name.lower() in SYSTEM_FILES else ""


def path_to_skip(path: str) -> str:
    """Why a member of an archive is no image of the user's, by any part of its path."""
    *folders, name = (part for part in PurePosixPath(path).parts if part not in ("/", ".", ".."))
    reasons = (folder_to_skip(folder) for folder in folders)
    return next(filter(None, reasons), "") or file_to_skip(name)


def known_by_name(extension: str) -> str | None:
    """By a lower-case extension: empty for an image, the reason why it is none, or None where only
    the content can tell."""
    if extension in IMAGE_EXTENSIONS:
        return ""
    if extension in UNDECODED:
        return UNDECODED[extension]
    return NOT_AN_IMAGE if extension in OTHER_EXTENSIONS else None


def known_by_head(head: bytes) -> str:
    """By the first bytes: empty for an image that can be decoded, else the reason why not."""
    if head.startswith((*_HEADS, *_TIFF)) or _PORTABLE.match(head):
        return ""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ""
    if head.startswith(_JPEG2000):
        return "" if JPEG2000 else "JPEG 2000 needs a Pillow that was built with OpenJPEG"
    return _undecoded_by_head(head)


def _undecoded_by_head(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, len(head) - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "" if AVIF else "AVIF needs a Pillow that was built with libavif"
        if head[8:12] in _HEIF_BRANDS:
            return UNDECODED[".heic"]
    if head[128:132] == b"DICM":
        return UNDECODED[".dcm"]
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return UNDECODED[".jxl"]
    return NOT_AN_IMAGE
