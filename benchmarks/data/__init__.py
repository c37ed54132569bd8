"""The data benchmark: the stream of training pairs against webdataset's and mosaicml-streaming's."""
