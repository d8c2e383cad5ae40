"""The storage elements: one contract, the landing protocol, and the elements that keep it."""
