"""The worker processes, which claim chunks from the queue and process them."""
