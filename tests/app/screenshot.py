"""Take the picture of docs/app.md anew: python tests/app/screenshot.py ADDRESS PHOTO docs/images/app.png

ADDRESS is where `mrda app` serves the page.
"""

import io
import sys

from chromium import CHROMIUM, opened
from PIL import Image

from mrda.photo.images import write_image


def main(address, photo, picture):
    if CHROMIUM is None:
        sys.exit("no Chromium is found (Debian: apt-get install chromium)")
    with opened() as browser:
        tab = browser.new_page(viewport={"width": 1080, "height": 800})
        tab.goto(address)
        tab.set_default_timeout(600_000)
        tab.set_input_files("input[type=file]", photo)
        tab.get_by_alt_text("Your photo", exact=True).wait_for()
        tab.get_by_role("button", name="Enlarge", exact=True).click()
        tab.get_by_role("button", name="Download").first.wait_for()
        tab.get_by_alt_text("The result").evaluate("image => image.decode()")
        screen = Image.open(io.BytesIO(tab.screenshot(full_page=True)))
        write_image(picture, screen.convert("RGB").quantize(256))


if __name__ == "__main__":
    main(*sys.argv[1:])
