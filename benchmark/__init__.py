"""What a person starts: a short script per published table, figure or demonstration. How they work is in engine/."""
