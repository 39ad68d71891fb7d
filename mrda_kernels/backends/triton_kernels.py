# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
# ruff: noqa: RUF005
"""The RDA convolution in Triton: one kernel forward, one backward.

A program computes a tile, some rows by some columns of one sample and a block of its channels, and walks down the rows.
A tensor in here is one row of the tile, (columns, channels). The strides tell which of the two is contiguous: the
compiler orders threads by it, and chooses vector loads.

Each loaded row is added at once to the K rows of z that it is part of: K - 1 running sums hold the incomplete ones. So
a row is read K times, shifted by a column each time (all but the first from a cache), and not K * K times.

Constants of a compilation:
    C: channels. K: kernel size. ACC: the type that sums are kept in. WIDE: True for 64-bit offsets.
    MASK: 0 for the bare convolution; 1 sums the mask's logits over the channels, which must fit one tile; 2 reads
        mask_logits, and writes their gradients.
    BIAS: True if there is a mask_bias. ACTIVATE: True if the result goes through the second LeakyReLU.
    CHANNELS_LAST: True if that is the memory format of the result.
    COLUMNS, CHANNELS: the tile's sizes, powers of two.

`unseen_zero` is 0, which the compiler does not know. Added to the offsets in NCHW, it hides that rows are aligned:
vector loads along a row would distribute pixels over threads in a way that does not fit the reads shifted by a column.

Triton's language has no (*tuple, item), and no types that mypy knows.
"""

import triton
import triton.language as tl


@triton.jit
def _sigmoid(mask_logits):
    # Division is off by two units in the last place on a GPU, or slow; a Newton step reduces that to half a unit. The
    # clamp keeps infinity out of that step; where it acts, the sigmoid is about the smallest normal number. NaN stays.
    e = tl.exp(-mask_logits)
    limit = 8e307 if mask_logits.dtype == tl.float64 else 8e37
    e = tl.where(e > limit, limit, e)
    mask = 1.0 / (1.0 + e)
    return mask + mask * (1.0 - (1.0 + e) * mask)


@triton.jit
def _leaky_relu(x, slope):
    return tl.where(x > 0, x, x * slope)


@triton.jit
def _leaky_relu_backward(grad, x, slope):
    # At exactly 0 the derivative is the slope, as in torch.
    return tl.where(x > 0, grad, grad * slope)


@triton.jit
def _load_row(pointer, row, offsets, fits, height, stride_h, ACC: tl.constexpr):
    """Load one row of a tile, 0 outside the image; `offsets` and `fits` are those of its columns and channels."""
    return tl.load(pointer + row * stride_h + offsets, mask=((row >= 0) & (row < height)) & fits, other=0.0).to(ACC)


@triton.jit
def _shifted_fits(columns, fits, width, K: tl.constexpr):
    """Find for each column of the kernel the elements of a row for which it is on a pixel of the image."""
    all_fits = ()
    for j in tl.static_range(K):
        seen = columns + (j - K // 2)
        all_fits = all_fits + ((seen >= 0) & (seen < width) & fits,)
    return all_fits


@triton.jit
def _load_taps(pointer, channels, fits, stride_c, stride_i, stride_j, K: tl.constexpr, ACC: tl.constexpr):
    """Load a (1, channels) tensor for each tap."""
    taps = ()
    for i in tl.static_range(K):
        for j in tl.static_range(K):
            tap = tl.load(pointer + channels * stride_c + i * stride_i + j * stride_j, mask=fits, other=0.0)
            taps = taps + (tap.to(ACC),)
    return taps


@triton.jit
def _convolve_row(
    sums, taps, pointer, row, offsets, shifted_fits, height, stride_h, stride_w, K: tl.constexpr, ACC: tl.constexpr
):
    """Add input row `row` to the K rows of z that it is part of, of which the first is then complete."""
    for j in tl.static_range(K):
        x = _load_row(pointer, row, offsets + (j - K // 2) * stride_w, shifted_fits[j], height, stride_h, ACC)
        longer = ()
        for i in tl.static_range(K):
            longer = longer + (sums[i] + x * taps[(K - 1 - i) * K + j],)
        sums = longer
    return sums


@triton.jit
def _zeros(count: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr):
    tensors = ()
    for _ in tl.static_range(count):
        tensors = tensors + (tl.zeros((COLUMNS, CHANNELS), ACC),)
    return tensors


@triton.jit
def _tile(height, width, rows, C: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr,
          WIDE: tl.constexpr):  # fmt: skip
    """Find the program's sample, first channel, first row and first column; neighbours in a row have successive ids."""
    across, down = tl.cdiv(width, STEP), tl.cdiv(height, rows)
    blocks: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    program = tl.program_id(0)
    left = program % across * STEP
    top = program // across % down * rows
    block = program // (across * down) % blocks * CHANNELS
    sample = program // (across * down * blocks)
    if WIDE:
        sample, block, top, left = sample.to(tl.int64), block.to(tl.int64), top.to(tl.int64), left.to(tl.int64)
    return sample, block, top, left


@triton.jit
def _wide(stride):
    """Widen a stride that is multiplied by a constant of the compilation, which would give a 32-bit offset."""
    return tl.full((1, 1), 1, tl.int64) * stride


@triton.jit
def _masked(z, mask, x, slope, output_slope, ACTIVATE: tl.constexpr):
    """The result of one row, from the convolution's sums, the mask and the input."""
    y = _leaky_relu(z, slope) * mask + x
    if ACTIVATE:
        y = _leaky_relu(y, output_slope)
    return y


@triton.jit
def _masked_backward(grad, z, mask, x, slope, output_slope, ACTIVATE: tl.constexpr):
    """The gradients of one row's `+ input` term, of z and of the mask, from the gradient of the result."""
    features = _leaky_relu(z, slope)
    if ACTIVATE:
        grad = _leaky_relu_backward(grad, features * mask + x, output_slope)
    return grad, _leaky_relu_backward(grad * mask, z, slope), grad * features


@triton.jit(do_not_specialize=["rows", "unseen_zero"])
def forward(
    output, input, weight, mask_weight, mask_bias, mask_logits, height, width, rows, unseen_zero,
    output_b, output_c, output_h, output_w, input_b, input_c, input_h, input_w,
    weight_b, weight_c, weight_i, weight_j, mask_weight_c, mask_logits_b, mask_logits_c, mask_logits_h, mask_logits_w,
    negative_slope: tl.float64, output_negative_slope: tl.float64,
    C: tl.constexpr, K: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr, ACTIVATE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Compute one tile of the result."""
    R: tl.constexpr = K // 2
    sample, block, top, left = _tile(height, width, rows, C, COLUMNS, CHANNELS, WIDE)
    columns = left + tl.arange(0, COLUMNS)[:, None]
    channels = block + tl.arange(0, CHANNELS)[None, :]
    fits = channels < C
    shifted_fits = _shifted_fits(columns, fits, width, K)
    here = (columns < width) & fits
    slope = tl.full((1, 1), negative_slope, ACC)
    output_slope = tl.full((1, 1), output_negative_slope, ACC)

    if WIDE:
        input_w, weight_i, weight_j = _wide(input_w), _wide(weight_i), _wide(weight_j)
    unseen = 0 if CHANNELS_LAST else unseen_zero
    output += sample * output_b + unseen
    input += sample * input_b + unseen
    mask_logits += sample * mask_logits_b + unseen
    output_offsets = columns * output_w + channels * output_c
    offsets = columns * input_w + channels * input_c
    mask_logits_offsets = columns * mask_logits_w + channels * mask_logits_c
    taps = _load_taps(weight + sample * weight_b, channels, fits, weight_c, weight_i, weight_j, K, ACC)
    if MASK == 1:
        mask_weights = tl.load(mask_weight + channels * mask_weight_c, mask=fits, other=0.0).to(ACC)
        bias = tl.load(mask_bias).to(ACC) if BIAS else 0.0

    bottom = tl.minimum(top + rows, height)
    sums = _zeros(K - 1, COLUMNS, CHANNELS, ACC)
    zero = tl.zeros((COLUMNS, CHANNELS), ACC)
    for row in range(top - R, bottom + R):
        sums = _convolve_row(sums + (zero,), taps, input, row, offsets, shifted_fits, height, input_h, input_w, K, ACC)
        y = sums[0]
        sums = sums[1:]
        done = row - R
        if MASK != 0:
            x = _load_row(input, done, offsets, here, height, input_h, ACC)
            if MASK == 1:
                mask = _sigmoid(tl.sum(x * mask_weights, axis=1, keep_dims=True) + bias)
            else:
                mask = _sigmoid(_load_row(mask_logits, done, mask_logits_offsets, here, height, mask_logits_h, ACC))
            y = _masked(y, mask, x, slope, output_slope, ACTIVATE)
        else:
            y = _leaky_relu(y, slope)
        tl.store(
            output + done * output_h + output_offsets,
            y.to(output.dtype.element_ty),
            mask=(done >= top) & here,
        )


@triton.jit
def _mask_backward(grad_mask, mask, x, mask_weights, own):
    """The gradient of the logits of a mask that all channels share; and its part of that of mask_weight and input."""
    grad_mask_logits = tl.sum(grad_mask, axis=1, keep_dims=True) * (mask - mask * mask)
    grad_mask_logits = tl.where(own, grad_mask_logits, 0.0)
    return grad_mask_logits, grad_mask_logits * x, mask_weights * grad_mask_logits


@triton.jit
def _ring_slot(row, RING: tl.constexpr, SIZE: tl.constexpr):
    """The offset of a row in the ring; rows may be as low as -2 * RING."""
    return (row + 2 * RING) % RING * SIZE


@triton.jit
def _store_sums(partial_sums, weight_sums, mask_weight_sum, bias_sum, K: tl.constexpr, MASK: tl.constexpr,
                CHANNELS: tl.constexpr):  # fmt: skip
    """Store the sums over a tile's pixels for this program; a second kernel adds those of a sample's programs."""
    SUMS: tl.constexpr = K * K + (2 if MASK == 1 else 0)
    partial_sums += tl.program_id(0).to(tl.int64) * (SUMS * CHANNELS) + tl.arange(0, CHANNELS)[None, :]
    for tap in tl.static_range(K * K):
        tl.store(partial_sums + tap * CHANNELS, tl.sum(weight_sums[tap], axis=0, keep_dims=True))
    if MASK == 1:
        tl.store(partial_sums + K * K * CHANNELS, tl.sum(mask_weight_sum, axis=0, keep_dims=True))
        total_bias = tl.broadcast_to(tl.sum(bias_sum, axis=0, keep_dims=True), (1, CHANNELS))
        tl.store(partial_sums + (K * K + 1) * CHANNELS, total_bias)


@triton.jit(do_not_specialize=["rows", "unseen_zero"])
def backward(
    grad_input, grad_mask_logits, partial_sums, scratch, grad_output, input, weight, mask_weight, mask_bias,
    mask_logits, height, width, rows, unseen_zero,
    grad_input_b, grad_input_c, grad_input_h, grad_input_w,
    grad_mask_logits_b, grad_mask_logits_c, grad_mask_logits_h, grad_mask_logits_w,
    grad_output_b, grad_output_c, grad_output_h, grad_output_w, input_b, input_c, input_h, input_w,
    weight_b, weight_c, weight_i, weight_j, mask_weight_c, mask_logits_b, mask_logits_c, mask_logits_h, mask_logits_w,
    negative_slope: tl.float64, output_negative_slope: tl.float64,
    C: tl.constexpr, K: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr, ACTIVATE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Compute one tile of grad_input, and its part of the sums over pixels.

    If there is a mask, grad_z is computed on K // 2 more columns and rows on either side. The program's threads
    exchange its last K rows through `scratch`, a ring of K + 1: one barrier between writing and reading a row is
    enough, because what is written after the next barrier replaces a row that nobody reads any more.
    """
    R: tl.constexpr = K // 2
    HALO: tl.constexpr = R if MASK != 0 else 0
    STEP: tl.constexpr = COLUMNS - 2 * HALO
    sample, block, top, left = _tile(height, width, rows, C, STEP, CHANNELS, WIDE)
    places = tl.arange(0, COLUMNS)[:, None]
    columns = left - HALO + places
    channels = block + tl.arange(0, CHANNELS)[None, :]
    fits = channels < C
    shifted_fits = _shifted_fits(columns, fits, width, K)
    inside = (columns >= 0) & (columns < width)
    here = inside & fits
    # each pixel belongs to one tile, which stores and sums it
    own = (places >= HALO) & (places < COLUMNS - HALO) & (columns < width)
    own_fits = own & fits
    slope = tl.full((1, 1), negative_slope, ACC)
    output_slope = tl.full((1, 1), output_negative_slope, ACC)

    if WIDE:
        input_w, grad_output_w = _wide(input_w), _wide(grad_output_w)
        weight_i, weight_j = _wide(weight_i), _wide(weight_j)
    unseen = 0 if CHANNELS_LAST else unseen_zero
    grad_input += sample * grad_input_b + unseen
    grad_mask_logits += sample * grad_mask_logits_b + unseen
    grad_output += sample * grad_output_b + unseen
    input += sample * input_b + unseen
    mask_logits += sample * mask_logits_b + unseen
    offsets = columns * input_w + channels * input_c
    grad_output_offsets = columns * grad_output_w + channels * grad_output_c
    grad_input_offsets = columns * grad_input_w + channels * grad_input_c
    mask_logits_offsets = columns * mask_logits_w + channels * mask_logits_c
    grad_mask_logits_offsets = columns * grad_mask_logits_w + channels * grad_mask_logits_c
    taps = _load_taps(weight + sample * weight_b, channels, fits, weight_c, weight_i, weight_j, K, ACC)
    if MASK == 1:
        bias = tl.load(mask_bias).to(ACC) if BIAS else 0.0

    RING: tl.constexpr = K + 1
    SIZE: tl.constexpr = COLUMNS * CHANNELS
    SCRATCH_W: tl.constexpr = CHANNELS if CHANNELS_LAST else 1
    SCRATCH_C: tl.constexpr = 1 if CHANNELS_LAST else COLUMNS
    scratch_offsets = places * SCRATCH_W + tl.arange(0, CHANNELS)[None, :] * SCRATCH_C
    scratch += tl.program_id(0).to(tl.int64) * (RING * SIZE) + unseen
    bottom = tl.minimum(top + rows, height)
    zero = tl.zeros((COLUMNS, CHANNELS), ACC)
    z_sums = _zeros(K - 1, COLUMNS, CHANNELS, ACC)
    waiting = _zeros(R, COLUMNS, CHANNELS, ACC)  # gradients of the `+ input` term, until the taps' share is known
    weight_sums = _zeros(K * K, COLUMNS, CHANNELS, ACC)
    mask_weight_sum = zero
    bias_sum = tl.zeros((COLUMNS, 1), ACC)
    for row in range(top - 2 * HALO, bottom + 2 * HALO):
        done = row - 2 * HALO
        grad_z = zero
        total = zero
        if MASK != 0:
            # the gradient of z for row `middle`
            middle = row - R
            z_sums = _convolve_row(
                z_sums + (zero,), taps, input, row, offsets, shifted_fits, height, input_h, input_w, K, ACC
            )
            z = z_sums[0]
            z_sums = z_sums[1:]
            x = _load_row(input, middle, offsets, here, height, input_h, ACC)
            grad = _load_row(grad_output, middle, grad_output_offsets, here, height, grad_output_h, ACC)
            own_middle = ((middle >= top) & (middle < bottom)) & own
            if MASK == 1:
                # read again for each row: there are no registers left to keep it in
                mask_weights = tl.load(mask_weight + channels * mask_weight_c, mask=fits, other=0.0).to(ACC)
                pixel_logits = tl.sum(x * mask_weights, axis=1, keep_dims=True) + bias
                # outside the image grad_z is 0, whatever mask_weight holds
                mask = _sigmoid(tl.where(((middle >= 0) & (middle < height)) & inside, pixel_logits, 0.0))
            else:
                mask = _sigmoid(_load_row(mask_logits, middle, mask_logits_offsets, here, height, mask_logits_h, ACC))
            grad, grad_z, grad_mask = _masked_backward(grad, z, mask, x, slope, output_slope, ACTIVATE)
            if K > 1:
                tl.store(scratch + _ring_slot(row, RING, SIZE) + scratch_offsets, grad_z)
                tl.debug_barrier()
            if MASK == 1:
                of_bias, of_mask_weight, of_input = _mask_backward(grad_mask, mask, x, mask_weights, own_middle)
                bias_sum += of_bias
                mask_weight_sum += of_mask_weight
                grad += of_input
            else:
                tl.store(
                    grad_mask_logits + middle * grad_mask_logits_h + grad_mask_logits_offsets,
                    grad_mask * (mask - mask * mask),
                    mask=own_middle & fits,
                )
            waiting = waiting + (grad,)
            total = waiting[0]
            waiting = waiting[1:]

        # the part that goes through the taps, for row `done`
        own_row = (done >= top) & own_fits
        x = tl.load(input + done * input_h + offsets, mask=own_row, other=0.0).to(ACC)
        longer = ()
        for i in tl.static_range(K):
            for j in tl.static_range(K):
                if MASK == 0:
                    grad_z = _load_row(
                        grad_output, done + R - i, grad_output_offsets + (R - j) * grad_output_w,
                        shifted_fits[K - 1 - j], height, grad_output_h, ACC,
                    )  # fmt: skip
                elif K > 1:
                    slot = _ring_slot(row - i, RING, SIZE)
                    grad_z = tl.load(scratch + slot + scratch_offsets + (R - j) * SCRATCH_W, mask=own_row, other=0.0)
                total += grad_z * taps[i * K + j]
                longer = longer + (weight_sums[i * K + j] + grad_z * x,)
        weight_sums = longer
        tl.store(
            grad_input + done * grad_input_h + grad_input_offsets,
            total.to(grad_input.dtype.element_ty),
            mask=own_row,
        )

    _store_sums(partial_sums, weight_sums, mask_weight_sum, bias_sum, K, MASK, CHANNELS)
