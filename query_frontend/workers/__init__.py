"""Worker processes that answer on one port: their supervisor, what they share, and how connections reach them."""
