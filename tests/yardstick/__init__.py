"""A yardstick for maps of one lesion: images and networks of which the truth is known in closed form, and a scorer."""
