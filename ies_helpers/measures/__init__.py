"""What the map is worth."""
