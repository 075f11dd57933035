# Tidegate. Two commands do everything on a fresh machine: `make demo` and `make test`.
CARGO  ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(TARGET)/release/tidegate
# Names of the older systems' programs; under each, the binary serves that program's listeners only.
NAMES  := tidegate api-gateway ingest processor grpc-server grpc-gateway producer consumer analytics \
          highload-microservice producer-service

.DEFAULT_GOAL := help
.PHONY: help demo test build run fmt lint loom bench bench-peers bench-sinks bench-events services services-stop fault-test \
        damage-test simulate composite-compare h2spec deny proto health ready metrics clean tools create-topics list-topics

help: ## Say what there is
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Build, start, send this machine's own readings over three protocols, show where each went, stop
	$(CARGO) build --release --package tidegate --package load
	$(TARGET)/release/load demo --tidegate $(BINARY)

test: tools ## Run all tests; installs the foreign clients and the brokers they need
	@tools/services/services install || test "$$CI" != true
	$(CARGO) test --workspace --exclude loom-tests

build: ## Build the binary and lay bin/ with the older programs' names
	$(CARGO) build --release --package tidegate
	@mkdir -p bin
	@for name in $(NAMES); do ln -sfn $(abspath $(BINARY)) bin/$$name; done
	@mkdir -p build/bin && ln -sfn $(abspath $(BINARY)) build/bin/producer-service
	@echo "bin/: $(NAMES)"

.PHONY: release
release: ## Build what is given away: with TLS and SASL towards Kafka; needs OpenSSL's development files (libssl-dev)
	$(CARGO) build --release --package tidegate --features kafka-tls
	@$(BINARY) config check -c /dev/null | grep -q 'TLS and SASL with Kafka'
	@mkdir -p dist && cp $(BINARY) dist/tidegate
	@echo "dist/tidegate: $$(dist/tidegate version)"

.PHONY: example
example: ## Send events to a running server with the Go client
	go run examples/grpc_client/main.go

run: ## Start the server
	$(CARGO) run --release

fmt: ## Format
	$(CARGO) fmt --all

lint: ## Formatting and clippy, as CI has it
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

loom: ## Explore the interleavings of everything two cores share
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(TARGET)/loom $(CARGO) test --package loom-tests --profile loom

bench: ## Criterion benches of the parts, beside their peers
	$(CARGO) bench --package benches

bench-peers: ## Server CPU per request beside axum and tonic, interleaved
	$(CARGO) build --release --package tidegate --package bench-peers
	$(TARGET)/release/bench-peers --tidegate $(BINARY)

bench-sinks: ## Durable beside queued, our publishers beside the bare NATS and Kafka clients, interleaved
	$(CARGO) build --release --package tidegate --package bench-sinks
	$(TARGET)/release/bench-sinks --tidegate $(BINARY)

bench-events: ## What analytics cost: CPU per event, queries while events come in, memory of a million users
	$(CARGO) build --release --package tidegate --package bench-events
	$(TARGET)/release/bench-events --tidegate $(BINARY)

create-topics: build ## Create Kafka's topics (KAFKA_BROKERS), as far as they are not there
	@bin/tidegate topics create

list-topics: build ## List them, with what the consumer group has not worked on
	@bin/tidegate topics list

services: ## Start a real NATS and a real Kafka on free ports; prints what to export
	@tools/services/services start

services-stop: ## Stop them, by process id
	@tools/services/services stop

KILLS        ?= 200
BROKER_KILLS ?= 50
STOPS        ?= 30
PAUSES       ?= 15
SEED         ?=
LEDGER  = $(TARGET)/release/ledger run --tidegate $(BINARY) $(if $(SEED),--seed $(SEED)) --kills $(KILLS) --stops $(STOPS)
BROKERS = --broker-kills $(BROKER_KILLS) --pauses $(PAUSES)
# Without the log in front, `queued` is promised something, too.
DIRECT  = $(BROKERS) --level delivered,queued
fault-test: ## Kill, stop and pause Tidegate and its brokers, fail the disk; nothing acknowledged may be lost (KILLS, BROKER_KILLS, STOPS, PAUSES, SEED)
	$(CARGO) build --release --package tidegate --package ledger
	$(CARGO) test --package brokers --test lossy
	$(LEDGER) --queue log
	$(LEDGER) $(BROKERS) --queue nats --outbox
	$(LEDGER) $(BROKERS) --queue kafka --outbox
	$(LEDGER) $(BROKERS) --queue composite --outbox
	$(LEDGER) $(BROKERS) --queue composite --outbox --strategy best-effort
	$(LEDGER) $(DIRECT) --queue nats
	$(LEDGER) $(DIRECT) --queue kafka
	$(LEDGER) $(DIRECT) --queue composite
	$(LEDGER) $(DIRECT) --queue composite --strategy best-effort
	$(TARGET)/release/ledger group --tidegate $(BINARY) --queue nats
	$(TARGET)/release/ledger group --tidegate $(BINARY) --queue kafka
	$(TARGET)/release/ledger outage --tidegate $(BINARY) --queue composite --outbox --strategy best-effort

simulate: ## The engine in simulated worlds: crashes, disks that lose, brokers that fail (SEEDS, FROM)
	$(CARGO) build --release --package tidegate
	$(BINARY) simulate --seeds $(or $(SEEDS),100000) --from $(or $(FROM),0)

damage-test: ## Damage copies of a real data directory in every way; each must be refused by name or harmless (SEED)
	$(CARGO) build --release --package tidegate --package ledger
	$(TARGET)/release/ledger damage --tidegate $(BINARY) $(if $(SEED),--seed $(SEED)) --queue log
	$(TARGET)/release/ledger damage --tidegate $(BINARY) $(if $(SEED),--seed $(SEED)) --queue nats

MUTANTS ?=
.PHONY: simulate-mutants
simulate-mutants: ## Plant the errors of engine/simulator/mutants one by one; the simulator has to find each (MUTANTS: those of this name, SEEDS)
	$(CARGO) run --quiet --package mutants -- --only '$(MUTANTS)' $(if $(SEEDS),--seeds $(SEEDS))

composite-compare: ## Which ids the stream and the topic of `make services` do not share
	$(CARGO) build --release --package ledger
	@. .tools/services/environment && $(TARGET)/release/ledger compare --nats $$NATS_URL --kafka $$KAFKA_BROKERS

# CI takes the binary that the tests have built: another build costs minutes, and shows nothing more.
H2SPEC_PROFILE ?= release
h2spec: tools ## HTTP/2 conformance against the running binary
	$(CARGO) build --profile $(H2SPEC_PROFILE) --package tidegate
	tools/clients/h2spec $(TARGET)/$(if $(filter dev,$(H2SPEC_PROFILE)),debug,$(H2SPEC_PROFILE))/tidegate

tools: ## Install the foreign clients that tests use, into .tools
	@tools/clients/install

EXAMPLES ?= 200
.PHONY: openapi-check
openapi-check: tools ## Ask the API from its own description, for longer than the test does (EXAMPLES, SEED)
	OPENAPI_EXAMPLES=$(EXAMPLES) OPENAPI_SEED=$(or $(SEED),$$(date +%s)) \
	  $(CARGO) test --package tidegate --test clients openapi:: -- --nocapture

deny: ## Licences, bans and sources of every dependency
	@command -v cargo-deny >/dev/null || test -x .tools/bin/cargo-deny || $(CARGO) install cargo-deny --version 0.18.9 --locked --root .tools
	PATH="$$PWD/.tools/bin:$$PATH" cargo deny --workspace check licenses bans sources

proto: ## Generate proto/src/gen anew
	$(CARGO) xtask proto

health ready: ## Ask a running server's ports
	@for port in 8080 8081 8082 8083; do curl -fsS --max-time 5 http://localhost:$$port/$@ && echo; done

metrics: ## The request metrics of a running server (API_KEY, where it asks for one)
	@curl -fsS --max-time 5 $(if $(API_KEY),-H 'x-api-key: $(API_KEY)') http://localhost:9090/metrics | grep -E '^(ingest_|processor_|gateway_|producer_|http_)'

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf bin
