# `make run` needs a Rust toolchain and a C compiler and nothing else.
# `make test` does all that CI does; `.ci/run` calls it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run setup test fmt lint doc tidy unit stress sanitize bench

CARGO ?= cargo
# Where cargo puts the server, for tests that start it.
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))

help:
	@echo 'make run       start a development server (cargo run --release -- serve --dev)'
	@echo 'make test      install what is missing, then everything below'
	@echo 'make fmt       check the format'
	@echo 'make lint      clippy, warnings denied'
	@echo 'make doc       documentation, warnings denied'
	@echo 'make tidy      the shape of the workspace'
	@echo 'make unit      all tests'
	@echo 'make stress    the long crash-and-resume run'
	@echo 'make sanitize  the crate with unsafe code under the address sanitizer'
	@echo 'make bench     compare with others on this machine, and write docs/benchmarks.md, polling.md and scaling.md;'
	@echo '               with QUICK=1 a look in minutes that is written elsewhere, with STRESS=1 the stress run too,'
	@echo '               with SECTIONS="broadcast idle" some of it, with SECTIONS=soak half an hour of idle streams'

run:
	$(CARGO) run --release --locked -- serve --dev

# One after the other, the quick ones first; clippy and rustdoc share what they compile.
test:
	@scripts/setup
	@$(MAKE) --no-print-directory fmt
	@$(MAKE) --no-print-directory tidy
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory doc
	@$(MAKE) --no-print-directory unit

setup:
	@scripts/setup

fmt:
	@echo '== format'
	@$(CARGO) fmt --all --check

tidy:
	@echo '== shape of the workspace'
	@$(CARGO) xtask tidy

lint:
	@echo '== clippy'
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc:
	@echo '== documentation'
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked

# cargo builds every binary before it runs the first test.
unit:
	@echo '== tests'
	@TIDINGS_BIN='$(TARGET_DIR)/debug/tidings' $(CARGO) test --workspace --no-fail-fast --locked

stress:
	$(CARGO) build --release --locked
	$(CARGO) run --release --locked -p tidings-testkit --bin stress -- --binary '$(TARGET_DIR)/release/tidings'

# The sanitizers are options of the nightly compiler, which brings their runtime with its library.
sanitize:
	@$(CARGO) +nightly --version >/dev/null 2>&1 || { \
	  echo 'sanitize: there is no nightly toolchain; install it: rustup toolchain install nightly --profile minimal' >&2; \
	  exit 1; }
	RUSTFLAGS='-Zsanitizer=address' $(CARGO) +nightly test -p tidings-hub --lib --tests --locked \
	  --target x86_64-unknown-linux-gnu

# Everything that is measured is built as users build it: the release profile.
bench:
	@bench/setup
	$(CARGO) build --release --locked -p tidings -p bench-suite $(if $(STRESS)$(filter stress,$(SECTIONS)),-p tidings-testkit)
	'$(TARGET_DIR)/release/bench-suite' $(or $(SECTIONS),all) $(if $(QUICK),--quick) $(if $(STRESS),--stress)
