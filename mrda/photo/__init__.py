"""Image files: reading and writing photographs with all that people want to keep of them."""
