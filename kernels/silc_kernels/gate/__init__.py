"""The compile gate: what the compiler makes of every kernel that ships, without a GPU."""
