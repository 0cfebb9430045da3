# Thin front: every target is one command of `cargo xtask`; `scripts/bootstrap` does what Rust cannot do yet.
# The tools are found even where the login shell has not put cargo on the PATH.
export PATH := $(HOME)/.cargo/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help run build test lint fmt check coverage bench-create docs

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: ## set up what is missing, then boot a real guest and run a command in it
	@scripts/bootstrap run
	@cargo xtask run

build: ## build the release binaries and the static guest agent
	@scripts/bootstrap build
	@cargo xtask build

test: ## install what tests need and run all of them
	@scripts/bootstrap test
	@cargo xtask test

lint: ## clippy, rustfmt, shellcheck and the rules of the house
	@cargo xtask lint

fmt: ## format the tree
	@cargo fmt --all

check: ## the rules of the house only: arrows, purity, promises, generated pages
	@cargo xtask check

coverage: ## line coverage of the tests that need no machine
	@cargo xtask coverage

bench-create: ## time `vm run -- true` against a bare VMM boot, as a ratio
	@scripts/bootstrap run
	@cargo xtask bench create

docs: ## write the generated pages anew
	@cargo xtask docs
