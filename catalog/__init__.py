"""The catalog: the logical name space, replicas, and metadata from FITS headers."""
