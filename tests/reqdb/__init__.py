"""Tests of the request database and the request files."""
