"""The image builder: from the pixels of a camera to a FITS file in the queue."""
