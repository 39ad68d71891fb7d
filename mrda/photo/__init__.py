"""Image files: reading and writing photographs with their bit depth, transparency and metadata."""
