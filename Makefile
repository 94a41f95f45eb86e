# Every target does the set-up it needs itself. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
SEED ?= 1
MINUTES ?= 60
STEPS ?= 60
SEEDS ?= 0..2000
SOAK_SEEDS ?= 2000..102000
.PHONY: help setup clients guest guest-debian before build demo test test-binaries bench lint soak sim fuzz

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is needed (prints the command to run when not root)
	@scripts/setup

clients: setup ## Install the clients of the management API that the tests run (once)
	@scripts/build-clients

guest: setup ## Build the small test guest
	@scripts/build-guest

guest-debian: setup ## Build the Debian guest of the tour (a few minutes, once)
	@scripts/build-guest debian

before: setup ## Build the release before, which tests run beside this one (a few minutes, once)
	@CARGO="$(CARGO)" scripts/build-before

build: setup ## Build standin: target/release/standin
	$(CARGO) build --release -p standin

# In the profile of the tests, so that `make test` need not build everything again.
demo: guest ## Replicate a real VM, kill its host, fail over, and prove that nothing is torn
	$(CARGO) build -p standin --bin standin -p standin-testbed --bin standin-demo
	@$${CARGO_TARGET_DIR:-target}/debug/standin-demo

# Side by side: making guests and clients waits for the network, and the compiler often has work for one core only.
test: setup ## All tests, with real guests
	@$(MAKE) --no-print-directory --jobs=4 guest guest-debian clients before test-binaries
	$(CARGO) test --workspace

test-binaries: setup
	@MAKEFLAGS= $(CARGO) test --workspace --no-run

bench: build guest ## Benchmarks against their peers: make bench, or make bench BENCH="first_copy idle"
	$(CARGO) run --release -q -p standin-testbed --bin standin-bench -- $(BENCH)

soak: build guest ## Long campaigns: 100,000 simulated schedules, then faults with real guests: make soak SEED=n MINUTES=m
	@$(MAKE) --no-print-directory sim SEEDS=$(SOAK_SEEDS)
	$(CARGO) run --release -q -p standin-testbed --bin standin-soak -- --seed $(SEED) --steps $(STEPS) --minutes $(MINUTES)

lint: setup ## Format, lints, the Rust version that is promised, shell syntax
	$(CARGO) fmt --all --check
	@CARGO="$(CARGO)" scripts/check-rust-version
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@for script in scripts/setup scripts/build-clients scripts/build-guest scripts/build-debian-guest scripts/build-before scripts/lib.sh .ci/run \
	    scripts/guest/init scripts/guest/debian/db-writer; do \
	    shell=bash; head -1 $$script | grep -q 'sh$$' && ! head -1 $$script | grep -q bash && shell=sh; \
	    $$shell -n $$script || exit 1; done
	@! command -v shellcheck >/dev/null || shellcheck -x scripts/setup scripts/build-clients scripts/build-guest scripts/build-debian-guest scripts/build-before .ci/run

sim: setup ## Hosts in simulated time, by seed: make sim SEEDS=0..2000
	STANDIN_SIM_SEEDS=$(SEEDS) $(CARGO) test --workspace --test sim -- --nocapture no_schedule

fuzz: setup ## Fuzz every reader of what others sent, in fuzz/fuzz_targets, for a minute each (needs cargo-fuzz)
	@command -v cargo-fuzz >/dev/null || { echo 'cargo-fuzz is missing: cargo install cargo-fuzz' >&2; exit 1; }
	@for target in fuzz/fuzz_targets/*.rs; do \
	    $(CARGO) fuzz run --sanitizer none "$$(basename "$$target" .rs)" -- -max_total_time=60 || exit 1; done
