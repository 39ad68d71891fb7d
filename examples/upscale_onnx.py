# SPDX-License-Identifier: Apache-2.0
"""Upscale a photo with the graphs of `mrda export`, by onnxruntime and numpy (and Pillow for the files).

python examples/upscale_onnx.py FOLDER photo.jpg photo_x4.png
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

TILE = 256  # pixels; less takes less memory

folder, photo, result = sys.argv[1:]
den, rdan = (onnxruntime.InferenceSession(f"{folder}/{graph}.onnx") for graph in ("den", "rdan"))
facts = rdan.get_modelmeta().custom_metadata_map
scale, reach = int(facts["scale"]), int(facts["reach"])

image = Image.open(photo, formats=("JPEG", "PNG", "WEBP", "TIFF"))  # Pillow would have PostScript executed otherwise
lr = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
(degradation,) = den.run(None, {"lr": lr})  # of the whole photo, for all tiles

height, width = lr.shape[2:]
sr = np.empty((scale * height, scale * width, 3), np.uint8)
for top in range(0, height, TILE):
    for left in range(0, width, TILE):
        above, before = min(top, reach), min(left, reach)  # what the network sees around a tile
        seen = lr[:, :, top - above : top + TILE + reach, left - before : left + TILE + reach]
        (tile,) = rdan.run(None, {"lr": np.ascontiguousarray(seen), "degradation": degradation})
        tile = tile[0, :, scale * above :, scale * before :][:, : scale * TILE, : scale * TILE]
        rows, columns = slice(scale * top, scale * (top + TILE)), slice(scale * left, scale * (left + TILE))
        sr[rows, columns] = (tile.clip(0, 1) * 255).round().transpose(1, 2, 0)
Image.fromarray(sr).save(result)
