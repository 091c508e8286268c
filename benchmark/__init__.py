"""One short script per published table or figure. Runs are made by `algorithms/` as processes, read from folders."""
