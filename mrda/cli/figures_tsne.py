"""`mrda figures tsne` and `mrda figures kernels`: the raw IDRs in the plane (Figs 7 and 8)."""
