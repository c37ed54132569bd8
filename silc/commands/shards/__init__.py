"""`silc shards`, a module a command."""
