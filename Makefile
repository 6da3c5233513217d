# Everything a person or a machine does with this tree. CI runs only these targets, so a green laptop is a green CI.

CARGO ?= cargo
TARGET ?= $(shell uname -m)-unknown-linux-gnu
# Tools that a target needs and no package manager has, built once and kept beside the build.
TOOLS := target/tools
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(TOOLS)/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
CARGO_DEB_VERSION := 3.8.0
CARGO_DEB := $(TOOLS)/cargo-deb-$(CARGO_DEB_VERSION)/bin/cargo-deb
CARGO_CYCLONEDX_VERSION := 0.5.9
CARGO_CYCLONEDX := $(TOOLS)/cargo-cyclonedx-$(CARGO_CYCLONEDX_VERSION)/bin/cargo-cyclonedx
# What packaging/dist.sh runs.
PACKAGERS = CARGO='$(CARGO)' CARGO_DEB=$(CURDIR)/$(CARGO_DEB) CARGO_CYCLONEDX=$(CURDIR)/$(CARGO_CYCLONEDX)

# A static binary finds libc's getrandom by no lookup at run time, so the direct system call is chosen at build time. The
# explicit --target keeps these flags away from build scripts and procedural macros.
STATIC_FLAGS := -C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"
static_build = RUSTFLAGS='$(STATIC_FLAGS)' $(CARGO) build --locked --bin boxd --target $(TARGET) --profile $(1)

# What the binary may weigh, and what the one may that is built without link-time optimization: a fifth more.
MOST_BYTES := 20000000
MOST_BYTES_OF_PROOF := 24000000

.DEFAULT_GOAL := help
.PHONY: help run test lint fmt doc bench dist proof packages fuzz-smoke ci audit clients

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build and start the daemon on loopback; it prints the URL and where its token is
	$(CARGO) run --locked --bin boxd -- run

# Most tests wait for other processes most of the time.
RUST_TEST_THREADS ?= $(shell expr 2 '*' $$(nproc))

test: clients ## install what the tests need on Debian or Ubuntu, then run all of them
	RUST_TEST_THREADS=$(RUST_TEST_THREADS) $(CARGO) test --locked

clients:
	@tests/setup.sh test
	@cd tests/clients && npm ci --loglevel=error

lint: $(CARGO_DENY) ## formatting, clippy, dependency rules, shell scripts, the tree itself
	@tests/setup.sh lint
	packaging/check-tree.sh
	$(CARGO) fmt --check
	$(CARGO_DENY) --log-level error check --hide-inclusion-graph bans licenses sources
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt

doc: ## build the crate's documentation; the front page is the map of the house
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

bench: dist/boxd ## measure the daemon against the floors of this machine, one table, under three minutes
	@tests/setup.sh test bench
	BOXD_BENCH_BINARY=$(CURDIR)/dist/boxd $(CARGO) bench --locked --bench floor

dist: dist/boxd $(CARGO_DEB) $(CARGO_CYCLONEDX) ## what goes out, in dist/: the static binary and its proof, package, pages, digests
	@tests/setup.sh proof packages
	packaging/prove-static.sh dist/boxd $(MOST_BYTES)
	$(PACKAGERS) packaging/dist.sh dist/boxd dist

.PHONY: dist/boxd
dist/boxd:
	$(call static_build,dist)
	@mkdir -p dist
	cp target/$(TARGET)/dist/boxd dist/boxd

proof: ## the same proof on a profile that builds quickly
	@tests/setup.sh proof
	$(call static_build,proof)
	packaging/prove-static.sh target/$(TARGET)/proof/boxd $(MOST_BYTES_OF_PROOF)

packages: proof $(CARGO_DEB) $(CARGO_CYCLONEDX) ## build package and images around the binary of `proof`, and run what is in them
	@tests/setup.sh packages
	$(PACKAGERS) packaging/prove-packages.sh target/$(TARGET)/proof/boxd

# What `cargo fuzz` would set, without a sanitizer: those need a nightly compiler, coverage does not.
FUZZ_FLAGS := --cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
  -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
  -C llvm-args=-sanitizer-coverage-trace-compares -C debug-assertions
FUZZ_TARGETS := $(patsubst fuzz/targets/%.rs,%,$(wildcard fuzz/targets/*.rs))
FUZZ_SECONDS ?= 10

fuzz-smoke: ## feed what reads strangers' bytes with mutations of fuzz/corpus, each for FUZZ_SECONDS
	@tests/setup.sh fuzz
	RUSTFLAGS='$(FUZZ_FLAGS)' $(CARGO) build --locked --manifest-path fuzz/Cargo.toml --target $(TARGET) --target-dir target/fuzz
	@for target in $(FUZZ_TARGETS); do \
	  echo "fuzz: $$target"; \
	  packaging/fuzz.sh target/fuzz/$(TARGET)/debug/$$target fuzz/corpus/$$target $(FUZZ_SECONDS) || exit 1; \
	done

ci: lint doc test packages ## what CI runs

audit: $(CARGO_DENY) ## known vulnerabilities in our dependencies (fetches the advisory database)
	$(CARGO_DENY) check advisories

# Unoptimized on purpose: compiling them is the cost, running them is not.
install_tool = CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --debug --locked --quiet --no-default-features $(3) \
  --root $(TOOLS)/$(1)-$(2) --target-dir $(TOOLS)/build $(1)@$(2) && rm -rf $(TOOLS)/build

$(CARGO_DENY):
	$(call install_tool,cargo-deny,$(CARGO_DENY_VERSION))

$(CARGO_DEB):
	$(call install_tool,cargo-deb,$(CARGO_DEB_VERSION),--features gzip)

$(CARGO_CYCLONEDX):
	$(call install_tool,cargo-cyclonedx,$(CARGO_CYCLONEDX_VERSION))
