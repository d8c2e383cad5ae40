.PHONY: environment services demo test lint docs bench bench-wan torture clean

environment:
	script/environment

services:
	script/install-services

demo: environment
	script/demo

test: services environment
	.venv/bin/python -m pytest -n 3 --dist loadfile --ignore tests/torture
	.venv/bin/python -m pytest -n 3 --dist load tests/torture

torture: services environment
	.venv/bin/python -m tests.torture $(TORTURE)

lint: environment
	.venv/bin/ruff check . script/make-docs
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: environment
	.venv/bin/python script/make-docs

bench: services environment
	.venv/bin/python -m benchmarks $(BENCH)

bench-wan: services environment
	.venv/bin/python -m benchmarks.wan $(WAN)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis demo-site
	find . -name __pycache__ -prune -exec rm -rf {} +
