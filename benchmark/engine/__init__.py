"""How the scripts in benchmark/ work: they start `algorithms/` as processes and read the folders that runs leave."""
