"""One short script per published table or figure; runs are made by `algorithms/` as processes, and read from their folders."""
