"""Upscaling photographs with a trained student: one image, or files by the folder."""
