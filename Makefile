# One command each: see it work, test it, check it, measure it.
.PHONY: help demo test check fmt clippy doc docs deny bench bench-quick soak deb sbom prerequisites test-servers
.DEFAULT_GOAL := help
.NOTPARALLEL:

CARGO_DENY := 0.20.2
CARGO_DEB := 3.8.0
CARGO_CYCLONEDX := 0.5.9
DEMO_FLAGS ?=

help: ## what can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

demo: prerequisites ## everything on an embedded PostgreSQL, in front of you
	cargo run --release --locked -- demo $(DEMO_FLAGS)

# Most tests wait for a database or a daemon: more of them at once than there are cores.
# None is left out here: a server that is missing is a failure.
test: test-servers ## all tests, on a PostgreSQL of their own (or the server that DATABASE_URL names)
	RETENTIOND_TEST_ALL=1 RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} cargo test --locked --no-fail-fast

check: prerequisites fmt clippy doc deny test ## what the CI runs

fmt:
	cargo fmt --all --check

clippy: prerequisites
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test soak -- -D warnings

doc: prerequisites
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

docs: prerequisites ## the pages of docs/reference, from the code
	cargo build --locked
	@mkdir -p docs/reference
	@for page in events metrics config errors; do \
	    file=$$page; [ $$page = errors ] && file=exit-codes; \
	    target/debug/retentiond catalog $$page > docs/reference/$$file.md || exit 1; done

deny: prerequisites
	@cargo deny --version >/dev/null 2>&1 || { \
	    echo "installing cargo-deny $(CARGO_DENY), once"; cargo install cargo-deny --locked --version $(CARGO_DENY); }
	cargo deny --locked check bans licenses sources

bench: prerequisites ## the table and the plots of docs/performance.md, in under 20 minutes
	cargo bench --locked

bench-quick: prerequisites ## the same, small, in under 2 minutes: does it run at all
	RETENTIOND_BENCH=quick cargo bench --locked

soak: test-servers ## three replicas under everything at once: 10 minutes, or SOAK=30m; SOAK_SEED repeats the plan
	cargo test --release --locked --test soak

deb: prerequisites ## the Debian package, in target/debian
	@cargo deb --version >/dev/null 2>&1 || { \
	    echo "installing cargo-deb $(CARGO_DEB), once"; cargo install cargo-deb --locked --version $(CARGO_DEB); }
	RETENTIOND_REVISION=$$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown) cargo build --release --locked
	rm -rf target/man target/completions && mkdir -p target/completions
	target/release/retentiond manpages target/man
	for shell in bash zsh fish; do target/release/retentiond completions $$shell >target/completions/retentiond.$$shell; done
	cargo deb --no-build --locked

sbom: prerequisites ## what the program is made of, CycloneDX, in target/sbom
	@cargo cyclonedx --version >/dev/null 2>&1 || { \
	    echo "installing cargo-cyclonedx $(CARGO_CYCLONEDX), once"; cargo install cargo-cyclonedx --locked --version $(CARGO_CYCLONEDX); }
	mkdir -p target/sbom
	cargo cyclonedx --format json --spec-version 1.5 --override-filename retentiond.cdx
	mv retentiond.cdx.json target/sbom/

prerequisites:
	@scripts/prerequisites

test-servers:
	@scripts/prerequisites tests
