"""What `make site` adds to docs/: pages from committed results, notebooks and docstrings, and links between them."""
