"""HR training patches, from photos in memory or from caches on disk; and downloads of photo sets."""

from mrda.data.patches import PatchSampler, Track, load_patches, untracked

__all__ = ["PatchSampler", "Track", "load_patches", "untracked"]
