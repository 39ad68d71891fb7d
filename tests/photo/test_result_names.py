import pytest

from mrda.photo.names import distinct_names, folded

NFC, NFD = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["a.png", "b.png"], ["a", "b"]),
        (["I.jpg", "I.jpeg", "b.png"], ["I.jpg", "I.jpeg", "b"]),
        (["1/a.png", "2/a.png", "3/a.png"], ["a.png", "a.png_2", "a.png_3"]),
        (["a.png", "A.png", "a.JPG"], ["a.png", "A.png_2", "a.JPG"]),
        (["a.jpg", "a.bmp", "a.bmp.png"], ["a.jpg", "a.bmp_2", "a.bmp"]),
        ([f"{NFC}.png", f"{NFD}.bmp"], [f"{NFC}.png", f"{NFD}.bmp"]),
        (["skimage:coffee", "coffee.png"], ["coffee", "coffee.png"]),
    ],
)
def test_names_tell_photos_apart(sources, names):
    assert distinct_names(sources) == names
    assert len(set(map(folded, names))) == len(names)


def test_a_suffix_may_be_joined_otherwise():
    assert distinct_names(["I.jpg", "I.jpeg"], joint="_") == ["I_jpg", "I_jpeg"]
