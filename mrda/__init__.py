"""MRDA: blind image super-resolution by meta-learned degradation representations."""
