from commands import photo, rgb, weights  # noqa: F401 (fixtures)
