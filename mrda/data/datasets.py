# SPDX-License-Identifier: Apache-2.0
"""The photo sets of `mrda data download`: their addresses, sizes and published checksums.

Each checksum names its publisher; none was computed by us from a download. If nobody has published one, it is None, and
the command prints the SHA-256 of the file that it got.
"""

from __future__ import annotations

from dataclasses import dataclass

_TFDS = "SHA-256 and size: TensorFlow Datasets, url_checksums/div2k.txt"
_EDSR = (
    "MD5: torchSR, torchsr/datasets/benchmarks.py; "
    "SHA-256 and size: YeapJieShen/single-image-super-resolution, tests/utils/test_imresize.py"
)
_HUB = "SHA-256: the file's page on the Hugging Face Hub; size rounded there"


@dataclass(frozen=True)
class Archive:
    """An address to download a set from.

    Attributes:
        url: address of a zip or tar file.
        size: size of that file in bytes, perhaps rounded, see ``checksum_from``; None if unknown.
        folder: the folder in the archive that holds the set.
        sha256: SHA-256 of the file; None if not published.
        md5: MD5 of the file; None if not published.
        checksum_from: publisher of the checksums and the size.
    """

    url: str
    size: int | None
    folder: str
    sha256: str | None
    md5: str | None
    checksum_from: str


@dataclass(frozen=True)
class Dataset:
    """A set of photos.

    Attributes:
        name: its name in the command line, and that of the folder.
        use: training, validation or evaluation.
        pictures: number of pictures.
        archives: addresses, tried in this order; empty if the set must be requested from its owners.
        home: its web page, with the terms of use.
    """

    name: str
    use: str
    pictures: int
    archives: tuple[Archive, ...]
    home: str


def _div2k(name: str, size: int, sha256: str, md5: str) -> Archive:
    return Archive(
        url=f"https://data.vision.ee.ethz.ch/cvl/DIV2K/{name}.zip",
        size=size,
        folder=name,
        sha256=sha256,
        md5=md5,
        checksum_from=f"{_TFDS}; MD5: torchSR, torchsr/datasets/div2k.py",
    )


def _edsr(name: str) -> Archive:
    """Return a set in the archive of the authors of EDSR, which holds Set5, Set14, B100 and Urban100, HR and LR."""
    return Archive(
        url="https://cv.snu.ac.kr/research/EDSR/benchmark.tar",
        size=250_112_000,
        folder=f"benchmark/{name}/HR",
        sha256="80c21c333bbf6ceb5308b7243761f8284478274413a97b96f1d63e9045fd93e8",
        md5="4ace41d33c2384b97e6b320cd0afd6ba",
        checksum_from=_EDSR,
    )


def _hub_copy(name: str, size: int, *, sha256: str | None = None, md5: str | None = None, source: str) -> Archive:
    """Return a copy of a benchmark set's HR photos by a user of the Hub; not compared with EDSR's archive."""
    return Archive(
        url=f"https://huggingface.co/datasets/eugenesiow/{name}/resolve/main/data/{name}_HR.tar.gz",
        size=size,
        folder=f"{name}_HR",
        sha256=sha256,
        md5=md5,
        checksum_from=source,
    )


_ALL = (
    Dataset(
        name="DIV2K_train_HR",
        use="training",
        pictures=800,
        archives=(
            _div2k(
                "DIV2K_train_HR",
                size=3_530_603_713,
                sha256="9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
                md5="bdc2d9338d4e574fe81bf7d158758658",
            ),
        ),
        home="https://data.vision.ee.ethz.ch/cvl/DIV2K/",
    ),
    Dataset(
        name="DIV2K_valid_HR",
        use="validation",
        pictures=100,
        archives=(
            _div2k(
                "DIV2K_valid_HR",
                size=448_993_893,
                sha256="20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
                md5="9fcdda83005c5e5997799b69f955ff88",
            ),
            Archive(  # the same file
                url="https://data.vision.ee.ethz.ch/cvl/DIV2K/validation_release/DIV2K_valid_HR.zip",
                size=448_993_893,
                folder="DIV2K_valid_HR",
                sha256="20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
                md5=None,
                checksum_from="SHA-256 for this address: an example of Guild AI; size: that of the file above",
            ),
        ),
        home="https://data.vision.ee.ethz.ch/cvl/DIV2K/",
    ),
    Dataset(
        name="Flickr2K",
        use="training",
        pictures=2650,
        archives=(
            Archive(
                url="https://huggingface.co/datasets/goodfellowliu/Flickr2K/resolve/main/Flickr2K.zip",
                size=11_600_000_000,
                folder="Flickr2K",
                sha256="401a5b1d247d18d1114b77b069e3c7bf235c80f06b8b9caaef0086d07f1d42a3",
                md5=None,
                checksum_from=_HUB,
            ),
            Archive(  # the original, with LR beside HR
                url="https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar",
                size=None,
                folder="Flickr2K/Flickr2K_HR",
                sha256=None,
                md5="5d3f39443d5e9489bff8963f8f26cb03",
                checksum_from="MD5: torchSR, torchsr/datasets/flickr2k.py",
            ),
        ),
        home="https://github.com/limbee/NTIRE2017",
    ),
    Dataset(
        name="Set5",
        use="evaluation",
        pictures=5,
        archives=(
            _edsr("Set5"),
            _hub_copy(
                "Set5",
                size=852_000,
                sha256="260fc447296333f6c2716bcd65513968c33b666f21a905537ee3330c51a1945b",
                source=_HUB,
            ),
        ),
        home="https://people.rennes.inria.fr/Aline.Roumy/results/SR_BMVC12.html",
    ),
    Dataset(
        name="Set14",
        use="evaluation",
        pictures=14,
        archives=(
            _edsr("Set14"),
            _hub_copy("Set14", size=4_980_000, source="no checksum found; size: the Hugging Face Hub, rounded"),
        ),
        home="https://sites.google.com/site/romanzeyde/research-interests",
    ),
    Dataset(
        name="B100",
        use="evaluation",
        pictures=100,
        archives=(
            _edsr("B100"),
            _hub_copy(
                "BSD100",
                size=27_200_000,
                sha256="333495ccded04a0db52b33361140821ea7e0d8af8dfb54b58df79a00010858d6",
                source=_HUB,
            ),
        ),
        home="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
    ),
    Dataset(
        name="Urban100",
        use="evaluation",
        pictures=100,
        archives=(
            _edsr("Urban100"),
            _hub_copy(
                "Urban100",
                size=135_000_000,
                md5="65d9d84a34b72c6f7ca1e26a12df1e4c",
                source="MD5: examples of the library DeepInverse; size: the Hugging Face Hub, rounded",
            ),
        ),
        home="https://github.com/jbhuang0604/SelfExSR",
    ),
    Dataset(
        name="Manga109",
        use="evaluation",
        pictures=109,
        archives=(),  # its terms forbid redistribution; its owners give it to those who apply
        home="http://www.manga109.org/en/download.html",
    ),
)

DATASETS = {dataset.name: dataset for dataset in _ALL}
"""All sets by name."""
