"""Measures transfers over long-distance connections that are made on one machine: `make bench-wan`."""
