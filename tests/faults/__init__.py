"""Kill, deceive and delay the service; its invariants have to hold."""
