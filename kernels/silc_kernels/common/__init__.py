"""What every op uses: the dispatcher, argument checks, collectives, and the place Triton runs in."""
