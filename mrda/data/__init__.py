"""HR training patches: from photos in memory, and from caches of photos that are too many for it."""

from mrda.data.patches import PatchSampler, Track, load_patches, untracked

__all__ = ["PatchSampler", "Track", "load_patches", "untracked"]
