"""The data stream: what an order costs to read."""
