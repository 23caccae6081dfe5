"""Messages as protobuf bytes, with every length and index checked."""
