"""What all tests share: the same examples on every run, and a failure that can be repeated."""

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("ci")
