"""Tests of the storage elements and of landing, over all elements with real servers."""
