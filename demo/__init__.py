"""The demonstration behind `make demo`: a small site, a night of images, and a walk through the main job."""
