"""Small parts that any other package may use; they know nothing of super-resolution."""
