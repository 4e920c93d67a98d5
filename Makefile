# Thin: each target is a few lines, the work is in tools/ and in cargo. README.md explains what they do.
.PHONY: demo wrong-answer test setup bench lint asan valgrind soak
.DEFAULT_GOAL := test

setup:
	@tools/setup.sh

demo: setup
	@tools/demo.sh

wrong-answer: setup
	@tools/wrong-answer.sh

test: setup
	@tools/test.sh

lint: setup
	@tools/test.sh lint

bench: setup
	@tools/bench.sh $(BENCH)

asan: setup
	@tools/asan.sh

valgrind: setup
	@tools/valgrind.sh

soak:
	@tools/soak.sh
