"""Gen-SER: classification as the transport of an utterance's features to a class encoding."""
