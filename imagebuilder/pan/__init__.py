"""The camera's side: the library that a PAN sends its pixels with, and a simulator that plays a camera."""
