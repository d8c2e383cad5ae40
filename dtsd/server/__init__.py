"""The site's daemon: XML-RPC over HTTP, whose methods are in `dtsd.methods`."""
