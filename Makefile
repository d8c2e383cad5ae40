.PHONY: environment services demo test lint docs clean

environment:
	script/environment

services:
	script/install-services

demo: environment
	script/demo

test: services environment
	.venv/bin/python -m pytest

lint: environment
	.venv/bin/ruff check . script/make-docs
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: environment
	.venv/bin/python script/make-docs

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis demo-site
	find . -name __pycache__ -prune -exec rm -rf {} +
