# Thin: each target is a few lines, the work is in tools/ and in cargo. `make help` lists the targets.
.PHONY: help module demo wrong-answer test lint setup bench asan valgrind fuzz soak
.DEFAULT_GOAL := test

help: ## Prints this list.
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1 \2/p' $(MAKEFILE_LIST) | while read -r name what; do printf 'make %-14s%s\n' "$$name" "$$what"; done

module: ## Builds the module, pincerd and pincerctl for Debian's nginx (installs what that needs).
	@tools/setup.sh build
	cargo build --release -p ngx_http_pincer_module -p pincer-control

demo: ## Shows nginx and Pincer side by side on this machine; KEEP=1 leaves them running.
	@tools/setup.sh build
	@tools/demo.sh

wrong-answer: ## Shows the wrong answer that a cache keyed by nginx's own variable gives.
	@tools/setup.sh build
	@tools/wrong-answer.sh

setup: ## Installs what the tests need, and prepares four versions of nginx below .nginx/.
	@tools/setup.sh

test: setup ## Runs every check and test; .ci/run is the same.
	@tools/test.sh

lint: setup ## Runs the checks that need no test: format, tidy, clippy.
	@tools/test.sh lint

bench: setup ## Measures Pincer beside other proxies; BENCH="pool100ms sse" takes single scenarios.
	@tools/bench.sh $(BENCH)

asan: setup ## Runs the end-to-end tests under the address sanitizer.
	@tools/asan.sh

valgrind: setup ## Runs the end-to-end tests under memcheck.
	@tools/valgrind.sh

fuzz: setup ## Sends hostile bytes to nginx with and without the module for FUZZ_SECONDS (1800).
	@tools/fuzz-connections.sh $(or $(FUZZ_SECONDS),1800)

soak: ## Drives the balancer through 10,000 simulated worlds.
	@tools/soak.sh
