# SPDX-License-Identifier: Apache-2.0
"""Upscaling photographs with a trained student: one image, or files by the folder."""
