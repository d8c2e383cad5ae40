"""Drills that hurt a site on purpose, and an independent checker that says what came of it."""
