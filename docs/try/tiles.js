// Tiles of a fixed size that lie within an image, and the sums from which its degradation is read.

/**
 * Split a side of an image into tiles of a fixed length. Where the image ends, the tile ends, so that the network pads
 * it as it pads the image; a tile's result is what lies at least `pad` within the tile, or reaches the image's end.
 * @returns {{seen: number, start: number, end: number}[]} where a tile begins, and the pixels that it gives.
 */
export function tiles(length, tile, pad) {
  const found = [];
  for (let start = 0; start < length; ) {
    const seen = Math.max(0, Math.min(start - pad, length - tile));
    const end = seen + tile >= length ? length : seen + tile - pad;
    found.push({ seen, start, end });
    start = end;
  }
  return found;
}

/**
 * Cut a part out of an image; beyond the right and the bottom the image is mirrored.
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGBA.
 * @returns {Float32Array} 3 x height x width, in [0, 1].
 */
export function cut(image, top, left, height, width) {
  const planes = new Float32Array(3 * height * width);
  for (let row = 0; row < height; row++) {
    const line = mirrored(top + row, image.height) * image.width;
    for (let column = 0; column < width; column++) {
      const from = 4 * (line + mirrored(left + column, image.width));
      for (let channel = 0; channel < 3; channel++)
        planes[(channel * height + row) * width + column] = image.data[from + channel] / 255;
    }
  }
  return planes;
}

function mirrored(index, length) {
  const at = index % (2 * length);
  return at < length ? at : 2 * length - 1 - at;
}

/** Write a tile's result, 3 x height x width in [0, 1], into its place in the RGBA result. */
export function paste(sr, tileWidth, scale, rows, columns, result) {
  const plane = sr.length / 3, width = scale * tileWidth;
  for (let row = scale * rows.start; row < scale * rows.end; row++) {
    for (let column = scale * columns.start; column < scale * columns.end; column++) {
      const from = (row - scale * rows.seen) * width + column - scale * columns.seen;
      const to = 4 * (row * result.width + column);
      for (let channel = 0; channel < 3; channel++) result.data[to + channel] = 255 * sr[channel * plane + from];
      result.data[to + 3] = 255;
    }
  }
}

/**
 * Split a side into parts of which an encoder with strides reads the degradation: they begin on its grid.
 * @returns {{start: number, end: number, seen: number, seenEnd: number}[]}
 */
export function parts(length, side, reach) {
  const found = [];
  for (let start = 0; start < length; start += side) {
    const end = Math.min(length, start + side);
    found.push({ start, end, seen: Math.max(0, start - reach), seenEnd: Math.min(length, end + reach) });
  }
  return found;
}

/** Add up the pixels of a part's own in a map (channels x height x width) of all that it sees. */
export function addUp(sums, map, height, width, stride, rows, columns) {
  const [top, left] = [rows, columns].map((part) => (part.start - part.seen) / stride);
  const [high, wide] = [rows, columns].map((part) => Math.ceil((part.end - part.start) / stride));
  for (let channel = 0; channel < sums.length; channel++)
    for (let row = top; row < top + high; row++)
      for (let column = left; column < left + wide; column++)
        sums[channel] += map[(channel * height + row) * width + column];
}
